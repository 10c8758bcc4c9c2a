// What the kernels use beyond plain C, once for a device and once for the emulation.
//
// Shared memory is declared by SHARED (a constant count of numbers) or ALL_SHARED (bytes that the launch
// brings), and tensor cores and asynchronous copies are reached through the functions here alone, so that
// the emulation sees every access.
#pragma once

#ifdef __CUDACC__

#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define ALL_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define ATOMIC_ADD(array, index, value) atomicAdd(&(array)[index], value)

// The bits of the nearest f16, and back.
#define HALF_BITS(value) half_bits(value)
#define FROM_HALF(bits) from_half(bits)
static __device__ __forceinline__ unsigned half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
static __device__ __forceinline__ float from_half(unsigned bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<unsigned short>(bits)));
    return value;
}

// The address of a byte of shared memory, as instructions take it.
static __device__ __forceinline__ unsigned shared_address(const void* place) {
    return static_cast<unsigned>(__cvta_generic_to_shared(place));
}

#define COPY_16(shared, offset, from) copy_16(shared_address((shared) + (offset)), from)
static __device__ __forceinline__ void copy_16(unsigned to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

#define COMMIT_COPIES() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT_COPIES(left) asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory")

// Four 8 x 8 matrices of 16-bit numbers; lanes 8i to 8i + 7 name the rows of the i-th.
#define LOAD_MATRICES(shared, offset, to) load_matrices(shared_address((shared) + (offset)), to)
static __device__ __forceinline__ void load_matrices(unsigned from, unsigned (&to)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// sums += a * b, a of 16 x 16 and b of 16 x 8 in f16, f32 sums.
#define MULTIPLY_16X8X16(sums, a, b) multiply_16x8x16(sums, a, b)
static __device__ __forceinline__ void multiply_16x8x16(float (&sums)[4], const unsigned (&a)[4],
                                                        const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#if __CUDA_ARCH__ >= 900

// Barriers in shared memory, 8 bytes each.
#define MAKE_PHASE(shared, offset, count)                                                        \
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address((shared) + (offset))), \
                 "r"(count)                                                                      \
                 : "memory")
// Before other threads and copies use barriers that were made.
#define PUBLISH_PHASES() asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory")
#define EXPECT_BYTES(shared, offset, bytes)                                  \
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: \
                     "r"(shared_address((shared) + (offset))),               \
                 "r"(bytes)                                                  \
                 : "memory")
#define ARRIVE(shared, offset)                                 \
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: \
                     "r"(shared_address((shared) + (offset)))  \
                 : "memory")
#define WAIT_PHASE(shared, offset, parity) wait_phase(shared_address((shared) + (offset)), parity)
static __device__ __forceinline__ void wait_phase(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// A linear copy that a barrier counts.
#define COPY_BULK(shared, offset, from, bytes, barrier)                                                   \
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" :: \
                     "r"(shared_address((shared) + (offset))),                                           \
                 "l"(from), "r"(bytes), "r"(shared_address((shared) + (barrier)))                         \
                 : "memory")

#define BEGIN_PRODUCTS() asm volatile("wgmma.fence.sync.aligned;" ::: "memory")
#define COMMIT_PRODUCTS() asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory")
#define WAIT_PRODUCTS(left) asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory")

// How the cores of an operand lie: start, stride along the depth, stride along the lines, in 16 bytes; no swizzle.
#define DESCRIBE(shared, offset, along_depth, along_lines)                           \
    ((static_cast<unsigned long long>(shared_address((shared) + (offset))) >> 4 & 0x3fffull) | \
     static_cast<unsigned long long>((along_depth) >> 4) << 16 |                     \
     static_cast<unsigned long long>((along_lines) >> 4) << 32)

#define PLUS_16(sums, at)                                                                              \
    "+f"(sums[at]), "+f"(sums[at + 1]), "+f"(sums[at + 2]), "+f"(sums[at + 3]), "+f"(sums[at + 4]),       \
        "+f"(sums[at + 5]), "+f"(sums[at + 6]), "+f"(sums[at + 7]), "+f"(sums[at + 8]), "+f"(sums[at + 9]), \
        "+f"(sums[at + 10]), "+f"(sums[at + 11]), "+f"(sums[at + 12]), "+f"(sums[at + 13]),                \
        "+f"(sums[at + 14]), "+f"(sums[at + 15])

// sums += a * b^T for 64 lines of a and 128 of b, 16 deep, over a group of four warps.
#define MULTIPLY_64X128X16(sums, a, b) multiply_64x128x16(sums, a, b)
static __device__ __forceinline__ void multiply_64x128x16(float (&sums)[64], unsigned long long a,
                                                          unsigned long long b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, 1, 1, 1, 0, 0;"
        : PLUS_16(sums, 0), PLUS_16(sums, 16), PLUS_16(sums, 32), PLUS_16(sums, 48)
        : "l"(a), "l"(b));
}

// Registers that a group of warps gives back, or takes.
#define GIVE_REGISTERS(count) asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count))
#define TAKE_REGISTERS(count) asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count))

#endif

#else

#define MAKE_PHASE(shared, offset, count) emulation::make_phase((shared).region, offset, count)
#define PUBLISH_PHASES()
#define EXPECT_BYTES(shared, offset, bytes) emulation::expect_bytes((shared).region, offset, bytes)
#define ARRIVE(shared, offset) emulation::arrive((shared).region, offset)
#define WAIT_PHASE(shared, offset, parity) \
    emulation::wait_phase(__LINE__, (shared).region, offset, parity)
#define COPY_BULK(shared, offset, from, bytes, barrier) \
    emulation::copy_bulk((shared).region, offset, from, bytes, barrier)
#define BEGIN_PRODUCTS()
#define COMMIT_PRODUCTS() emulation::commit_products()
#define WAIT_PRODUCTS(left) emulation::wait_products(left)
#define DESCRIBE(shared, offset, along_depth, along_lines)                      \
    (static_cast<std::uint64_t>(((shared).region.first + (offset)) >> 4 & 0x3fff) | \
     static_cast<std::uint64_t>((along_depth) >> 4) << 16 |                     \
     static_cast<std::uint64_t>((along_lines) >> 4) << 32)
#define MULTIPLY_64X128X16(sums, a, b) emulation::multiply_64x128x16(sums, a, b)
#define GIVE_REGISTERS(count)
#define TAKE_REGISTERS(count)

#define SHARED(type, name, count) \
    const emulation::Shared<type> name{emulation::declare(#name, (count) * sizeof(type), 16)}
#define ALL_SHARED(name) const emulation::Shared<unsigned char> name{emulation::declare(#name, 0, 128)}
#define HALF_BITS(value) emulation::half_bits(value)
#define FROM_HALF(bits) emulation::from_half(bits)
#define ATOMIC_ADD(array, index, value) emulation::atomic_add((array)[index], value)
#define COPY_16(shared, offset, from) emulation::copy16((shared).region, offset, from)
#define COMMIT_COPIES() emulation::commit_copies()
#define WAIT_COPIES(left) emulation::wait_copies(left)
#define LOAD_MATRICES(shared, offset, to) \
    emulation::load_matrices(__LINE__, (shared).region, offset, to)
#define MULTIPLY_16X8X16(sums, a, b) emulation::multiply_16x8x16(__LINE__, sums, a, b)

#endif
