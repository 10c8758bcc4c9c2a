// A step of Adam in displacement form on tensor cores, for compute capability 8.0 and newer: mma.sync and
// cp.async.
//
//   D' = adam(D·Bt^T, R_0, D; m, v)        with B = G, or B = S after D·S^T
//   P  = A·Bt^T                            (product_f16: the first half of the factored form)
//   split_f16: packs f32 numbers
//
// Shapes. A and D are rows x depth and Bt is columns x depth, packed as packed.cuh says; rows and columns are
// multiples of 128, depth of 32. D is also there in f32, row-major like the offset and the moments, and is
// updated in place; its packed form goes to another place, as other blocks still read the old one. What pads is
// 0 and stays 0.
//
// Products. Three of four terms: low·high, high·low, high·high; the gradient never leaves registers.
//
// Scales. Operands are packed with powers of two, and `unscale` is one over the product of both, so that it and
// the multiplications with it are exact.
//
// Error. Of each element's product, against exact sums of f32 operands:
//   2^-22 sum |a b|     for what two terms leave of a,
//   2^-22 sum |a b|     for what they leave of b,
//   2^-22 sum |a b|     for low·low, which is not summed (|low| <= 2^-11 |x|),
//   3 depth / 16 * 2^-23 sum |a b|   for the sums of tensor cores, 16 products each, cut off at worst.
// Together 7.2e-7 for the terms and 2.3e-8 depth for the sums, relative to sum |a b|; both are bounds of the worst
// case, and roundings of either sign stay far below.
//
// Launch. 256 threads; blocks: columns / 128 by rows / 128; 96 KiB of shared memory, three stages of one chunk
// of each side. Eight warps, two by four, have 64 x 32 elements each.
#include "device.cuh"
#include "adam.cuh"
#include "packed.cuh"

#define STAGES 3
#define STAGE_BYTES (2 * CHUNK_BYTES)

typedef float Sums[4][4][4];

// Elements of a thread: rows of Sums are 16 rows of the matrix, then 8 columns; of these, two neighbors in the
// row of the lane, then two 8 rows below.
struct Corner {
    unsigned long long row;
    unsigned column;
};

static __device__ __forceinline__ void sum_products(const unsigned char* __restrict__ a,
                                                    const unsigned char* __restrict__ bt, unsigned depth,
                                                    Sums& sums) {
    ALL_SHARED(stages);
    const unsigned thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const unsigned slabs = depth / DEPTH;
    const unsigned char* left = a + static_cast<unsigned long long>(blockIdx.y) * slabs * CHUNK_BYTES;
    const unsigned char* right = bt + static_cast<unsigned long long>(blockIdx.x) * slabs * CHUNK_BYTES;
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            for (int k = 0; k < 4; k++) {
                sums[i][j][k] = 0.0f;
            }
        }
    }
    // The row of a core that this lane names: cores of A are asked for down, then along k; those of B along k,
    // then down, so that each pair of registers is one operand.
    const unsigned which = lane / 8, line = lane % 8 * 16;
    const unsigned of_left = ((which >> 1) * 16 + warp / 4 * 8 + (which & 1)) * 128 + line;
    const unsigned of_right =
        CHUNK_BYTES + ((which & 1) * 16 + warp % 4 * 4 + (which >> 1)) * 128 + line;

    for (unsigned slab = 0; slab < STAGES - 1; slab++) {
        if (slab < slabs) {
            for (unsigned at = thread * 16; at < CHUNK_BYTES; at += 256 * 16) {
                const unsigned stage = slab * STAGE_BYTES;
                COPY_16(stages, stage + at, left + slab * CHUNK_BYTES + at);
                COPY_16(stages, stage + CHUNK_BYTES + at, right + slab * CHUNK_BYTES + at);
            }
        }
        COMMIT_COPIES();
    }
    for (unsigned slab = 0; slab < slabs; slab++) {
        WAIT_COPIES(STAGES - 2);
        // The slab is there for all, and nobody reads the one before it any more.
        __syncthreads();
        const unsigned next = slab + STAGES - 1;
        if (next < slabs) {
            const unsigned stage = next % STAGES * STAGE_BYTES;
            const unsigned long long from = static_cast<unsigned long long>(next) * CHUNK_BYTES;
            for (unsigned at = thread * 16; at < CHUNK_BYTES; at += 256 * 16) {
                COPY_16(stages, stage + at, left + from + at);
                COPY_16(stages, stage + CHUNK_BYTES + at, right + from + at);
            }
        }
        COMMIT_COPIES();
        const unsigned stage = slab % STAGES * STAGE_BYTES;
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned at = stage + half * 2 * 16 * 128;
            unsigned high[4][4], low[4][4];
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                LOAD_MATRICES(stages, at + of_left + i * 256, high[i]);
                LOAD_MATRICES(stages, at + of_left + i * 256 + TERM_BYTES, low[i]);
            }
#pragma unroll
            for (unsigned pair = 0; pair < 2; pair++) {
                unsigned tall[4], small[4];
                LOAD_MATRICES(stages, at + of_right + pair * 256, tall);
                LOAD_MATRICES(stages, at + of_right + pair * 256 + TERM_BYTES, small);
#pragma unroll
                for (unsigned j = 0; j < 2; j++) {
                    const unsigned high_b[2] = {tall[2 * j], tall[2 * j + 1]};
                    const unsigned low_b[2] = {small[2 * j], small[2 * j + 1]};
#pragma unroll
                    for (unsigned i = 0; i < 4; i++) {
                        MULTIPLY_16X8X16(sums[i][2 * pair + j], low[i], high_b);
                        MULTIPLY_16X8X16(sums[i][2 * pair + j], high[i], low_b);
                        MULTIPLY_16X8X16(sums[i][2 * pair + j], high[i], high_b);
                    }
                }
            }
        }
    }
}

static __device__ __forceinline__ Corner corner_of_thread() {
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    return {static_cast<unsigned long long>(blockIdx.y) * LINES + warp / 4 * 64 + lane / 4,
            blockIdx.x * LINES + warp % 4 * 32 + lane % 4 * 2};
}

extern "C" __global__ void __launch_bounds__(256)
split_f16(const float* __restrict__ from, unsigned char* __restrict__ to, unsigned depth, float scale) {
    // Blocks: depth / 32 by lines / 128. Each thread has two neighbors of eight lines.
    const unsigned k = blockIdx.x * DEPTH + threadIdx.x % 16 * 2;
    for (unsigned down = threadIdx.x / 16; down < LINES; down += 16) {
        const unsigned long long line = static_cast<unsigned long long>(blockIdx.y) * LINES + down;
        const float* pair = from + line * depth + k;
        store_terms(to, line, k, depth, pair[0], pair[1], scale);
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
product_f16(const unsigned char* __restrict__ a, const unsigned char* __restrict__ bt,
             unsigned char* __restrict__ to, unsigned columns, unsigned depth, float unscale, float scale) {
    Sums sums;
    sum_products(a, bt, depth, sums);
    const Corner corner = corner_of_thread();
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
#pragma unroll
            for (unsigned below = 0; below < 2; below++) {
                const float* pair = &sums[i][j][2 * below];
                const unsigned long long row = corner.row + 16 * i + 8 * below;
                store_terms(to, row, corner.column + 8 * j, columns, pair[0] * unscale, pair[1] * unscale,
                            scale);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 1)
descent_f16(const unsigned char* __restrict__ a, const unsigned char* __restrict__ bt,
             const float* __restrict__ offset, float* __restrict__ displacement,
             unsigned char* __restrict__ packed, float* __restrict__ first, float* __restrict__ second,
             unsigned columns, unsigned depth, float step, float epsilon, float unscale,
             float scale) {
    Sums sums;
    sum_products(a, bt, depth, sums);
    const Corner corner = corner_of_thread();
    const Rates rates = {step, epsilon};
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
#pragma unroll
        for (unsigned j = 0; j < 4; j++) {
#pragma unroll
            for (unsigned below = 0; below < 2; below++) {
                const unsigned long long row = corner.row + 16 * i + 8 * below;
                const unsigned column = corner.column + 8 * j;
                const unsigned long long at = row * columns + column;
                float moved[2];
#pragma unroll
                for (unsigned k = 0; k < 2; k++) {
                    float m = first[at + k], v = second[at + k];
                    moved[k] = adam(sums[i][j][2 * below + k] * unscale, offset[at + k], displacement[at + k], rates,
                                    m, v);
                    displacement[at + k] = moved[k];
                    first[at + k] = m;
                    second[at + k] = v;
                }
                store_terms(packed, row, column, columns, moved[0], moved[1], scale);
            }
        }
    }
}
