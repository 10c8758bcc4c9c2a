// A step of Adam in displacement form for compute capability 9.0: products of warp groups, bulk copies, and
// barriers in shared memory.
//
//   D' = adam(D·Bt^T, R_0, D; m, v)        with B = G, or B = S after D·S^T
//   P  = A·Bt^T                            (product_sm90: the first half of the factored form)
//   split_sm90: packs f32 numbers
//
// Shapes, products and error are those of descent_f16.cu, but that columns are a multiple of 256.
//
// Launch. 384 threads; blocks: columns / 256 by rows / 128; four stages of 48 KiB and their barriers, 193 KiB of
// shared memory. The last group of four warps copies: one thread of it asks for each slab's chunk of A and two of
// Bt. The other two groups have 64 rows each and multiply from shared memory; the sums, 128 a thread, stay in
// registers through the update. A stage is full when its bytes have come, and free when both groups have
// finished its products.
#include "device.cuh"
#include "adam.cuh"
#include "packed.cuh"

#define STAGES 4
#define STAGE_BYTES (3 * CHUNK_BYTES)
#define FULL(stage) (STAGES * STAGE_BYTES + 8 * (stage))
#define FREE(stage) (STAGES * STAGE_BYTES + 8 * STAGES + 8 * (stage))
// Between cores along the depth, and along the lines, of a chunk.
#define ALONG_DEPTH 2048
#define ALONG_LINES 128

typedef float Sums[2][64];

// True for threads that have elements, once these are summed.
static __device__ __forceinline__ bool sum_products(const unsigned char* __restrict__ a,
                                                    const unsigned char* __restrict__ bt, unsigned depth,
                                                    Sums& sums) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    ALL_SHARED(stages);
    const unsigned thread = threadIdx.x, group = thread / 128;
    const unsigned slabs = depth / DEPTH;
    if (thread == 0) {
        for (unsigned stage = 0; stage < STAGES; stage++) {
            MAKE_PHASE(stages, FULL(stage), 1);
            // Eight warps say that they are done.
            MAKE_PHASE(stages, FREE(stage), 8);
        }
        PUBLISH_PHASES();
    }
    __syncthreads();
    if (group == 2) {
        GIVE_REGISTERS(40);
        if (thread == 256) {
            const unsigned long long line = static_cast<unsigned long long>(slabs) * CHUNK_BYTES;
            const unsigned char* left = a + blockIdx.y * line;
            const unsigned char* right = bt + 2 * blockIdx.x * line;
            for (unsigned slab = 0; slab < slabs; slab++) {
                const unsigned stage = slab % STAGES, at = stage * STAGE_BYTES;
                if (slab >= STAGES) {
                    WAIT_PHASE(stages, FREE(stage), (slab / STAGES - 1) & 1);
                }
                const unsigned long long from = static_cast<unsigned long long>(slab) * CHUNK_BYTES;
                EXPECT_BYTES(stages, FULL(stage), STAGE_BYTES);
                COPY_BULK(stages, at, left + from, CHUNK_BYTES, FULL(stage));
                COPY_BULK(stages, at + CHUNK_BYTES, right + from, CHUNK_BYTES, FULL(stage));
                COPY_BULK(stages, at + 2 * CHUNK_BYTES, right + line + from, CHUNK_BYTES, FULL(stage));
            }
        }
        return false;
    }
    TAKE_REGISTERS(232);
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
#pragma unroll
        for (unsigned j = 0; j < 64; j++) {
            sums[i][j] = 0.0f;
        }
    }
    for (unsigned slab = 0; slab < slabs; slab++) {
        const unsigned stage = slab % STAGES;
        WAIT_PHASE(stages, FULL(stage), slab / STAGES & 1);
        BEGIN_PRODUCTS();
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned deep = half * 2 * ALONG_DEPTH;
            const unsigned at = stage * STAGE_BYTES + deep + group * 8 * ALONG_LINES;
            const unsigned long long high = DESCRIBE(stages, at, ALONG_DEPTH, ALONG_LINES);
            const unsigned long long low = DESCRIBE(stages, at + TERM_BYTES, ALONG_DEPTH, ALONG_LINES);
#pragma unroll
            for (unsigned side = 0; side < 2; side++) {
                const unsigned from = stage * STAGE_BYTES + (1 + side) * CHUNK_BYTES + deep;
                const unsigned long long tall = DESCRIBE(stages, from, ALONG_DEPTH, ALONG_LINES);
                const unsigned long long small = DESCRIBE(stages, from + TERM_BYTES, ALONG_DEPTH, ALONG_LINES);
                MULTIPLY_64X128X16(sums[side], low, tall);
                MULTIPLY_64X128X16(sums[side], high, small);
                MULTIPLY_64X128X16(sums[side], high, tall);
            }
        }
        COMMIT_PRODUCTS();
        // The slab before is multiplied; this one may still be.
        WAIT_PRODUCTS(1);
        __syncwarp();
        if (slab > 0 && thread % 32 == 0) {
            ARRIVE(stages, FREE((slab - 1) % STAGES));
        }
    }
    WAIT_PRODUCTS(0);
    return true;
#else
    return false;
#endif
}

// Elements of a thread begin here; 16 blocks of 8 columns, twice, as multiply_64x128x16 has them.
struct Corner {
    unsigned long long row;
    unsigned column;
};

static __device__ __forceinline__ Corner corner_of_thread() {
    const unsigned thread = threadIdx.x, lane = thread % 32;
    return {static_cast<unsigned long long>(blockIdx.y) * LINES + thread / 32 * 16 + lane / 4,
            blockIdx.x * 2 * LINES + lane % 4 * 2};
}

extern "C" __global__ void __launch_bounds__(256)
split_sm90(const float* __restrict__ from, unsigned char* __restrict__ to, unsigned depth, float scale) {
    // Blocks: depth / 32 by lines / 128. Each thread has two neighbors of eight lines.
    const unsigned k = blockIdx.x * DEPTH + threadIdx.x % 16 * 2;
    for (unsigned down = threadIdx.x / 16; down < LINES; down += 16) {
        const unsigned long long line = static_cast<unsigned long long>(blockIdx.y) * LINES + down;
        const float* pair = from + line * depth + k;
        store_terms(to, line, k, depth, pair[0], pair[1], scale);
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
product_sm90(const unsigned char* __restrict__ a, const unsigned char* __restrict__ bt,
             unsigned char* __restrict__ to, unsigned columns, unsigned depth, float unscale, float scale) {
    Sums sums;
    if (!sum_products(a, bt, depth, sums)) {
        return;
    }
    const Corner corner = corner_of_thread();
#pragma unroll
    for (unsigned side = 0; side < 2; side++) {
#pragma unroll
        for (unsigned block = 0; block < 16; block++) {
#pragma unroll
            for (unsigned below = 0; below < 2; below++) {
                const float* pair = &sums[side][4 * block + 2 * below];
                store_terms(to, corner.row + 8 * below, corner.column + side * LINES + 8 * block, columns,
                            pair[0] * unscale, pair[1] * unscale, scale);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(384, 1)
descent_sm90(const unsigned char* __restrict__ a, const unsigned char* __restrict__ bt,
             const float* __restrict__ offset, float* __restrict__ displacement,
             unsigned char* __restrict__ packed, float* __restrict__ first, float* __restrict__ second,
             unsigned columns, unsigned depth, float step, float epsilon, float unscale,
             float scale) {
    Sums sums;
    if (!sum_products(a, bt, depth, sums)) {
        return;
    }
    const Corner corner = corner_of_thread();
    const Rates rates = {step, epsilon};
#pragma unroll
    for (unsigned side = 0; side < 2; side++) {
#pragma unroll
        for (unsigned block = 0; block < 16; block++) {
#pragma unroll
            for (unsigned below = 0; below < 2; below++) {
                const unsigned long long row = corner.row + 8 * below;
                const unsigned column = corner.column + side * LINES + 8 * block;
                const unsigned long long at = row * columns + column;
                float moved[2];
#pragma unroll
                for (unsigned k = 0; k < 2; k++) {
                    float m = first[at + k], v = second[at + k];
                    moved[k] = adam(sums[side][4 * block + 2 * below + k] * unscale, offset[at + k],
                                    displacement[at + k], rates, m, v);
                    displacement[at + k] = moved[k];
                    first[at + k] = m;
                    second[at + k] = v;
                }
                store_terms(packed, row, column, columns, moved[0], moved[1], scale);
            }
        }
    }
}
