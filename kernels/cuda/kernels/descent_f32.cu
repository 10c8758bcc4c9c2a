// A step of Adam in displacement form, with the product in plain f32: the reference of the tensor-core forms,
// and what runs on devices of compute capability 7.x.
//
//   D' = adam(D·Bt^T, R_0, D; m, v)        with B = G, or B = S after D·S^T
//   P  = A·Bt^T                            (product_f32: the first half of the factored form)
//
// Shapes. A and D are rows x depth, Bt is columns x depth: the right factor, transposed. All are row-major, with
// rows and columns multiples of 64 and depth a multiple of 16; what pads them is 0 and stays 0, since a
// gradient of 0 moves nothing. D' must not be D, which other blocks still read.
//
// Error. Each element is a sum of `depth` products, fused one after another in order of depth: at most
// depth * 2^-24 * sum |a b|, and what adam.cuh rounds.
//
// Launch. 256 threads; blocks: columns / 64 by rows / 64. Each thread has 4 x 4 elements.
#include "device.cuh"
#include "adam.cuh"

#define TILE 64
#define SLAB 16
// One more than the tile, so that the four rows of threads that read at once use different banks.
#define PITCH 65

// Where a thread's elements begin.
struct Corner {
    unsigned long long row, column;
};

static __device__ __forceinline__ Corner sum_products(const float* __restrict__ a,
                                                      const float* __restrict__ bt, unsigned depth,
                                                      float (&sums)[4][4]) {
    SHARED(float, left, SLAB * PITCH);
    SHARED(float, right, SLAB * PITCH);
    const unsigned thread = threadIdx.x;
    const unsigned long long row = 64ull * blockIdx.y, column = 64ull * blockIdx.x;
    const unsigned down = thread / 16 * 4, across = thread % 16 * 4;
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            sums[i][j] = 0.0f;
        }
    }
    for (unsigned slab = 0; slab < depth; slab += SLAB) {
        for (unsigned at = thread; at < TILE * SLAB; at += 256) {
            const unsigned k = at % SLAB, line = at / SLAB;
            left[k * PITCH + line] = a[(row + line) * depth + slab + k];
            right[k * PITCH + line] = bt[(column + line) * depth + slab + k];
        }
        __syncthreads();
        for (unsigned k = 0; k < SLAB; k++) {
            float x[4], y[4];
            for (int i = 0; i < 4; i++) {
                x[i] = left[k * PITCH + down + i];
                y[i] = right[k * PITCH + across + i];
            }
            for (int i = 0; i < 4; i++) {
                for (int j = 0; j < 4; j++) {
                    sums[i][j] = __fmaf_rn(x[i], y[j], sums[i][j]);
                }
            }
        }
        // Before the next slab takes the place of this one.
        __syncthreads();
    }
    return {row + down, column + across};
}

extern "C" __global__ void __launch_bounds__(256)
product_f32(const float* __restrict__ a, const float* __restrict__ bt, float* __restrict__ to,
            unsigned columns, unsigned depth) {
    float sums[4][4];
    const Corner corner = sum_products(a, bt, depth, sums);
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            to[(corner.row + i) * columns + corner.column + j] = sums[i][j];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
descent_f32(const float* __restrict__ a, const float* __restrict__ bt, const float* __restrict__ offset,
            const float* __restrict__ from, float* __restrict__ to, float* __restrict__ first,
            float* __restrict__ second, unsigned columns, unsigned depth, float step, float epsilon) {
    float sums[4][4];
    const Corner corner = sum_products(a, bt, depth, sums);
    const Rates rates = {step, epsilon};
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 4; j++) {
            const unsigned long long at = (corner.row + i) * columns + corner.column + j;
            float m = first[at], v = second[at];
            to[at] = adam(sums[i][j], offset[at], from[at], rates, m, v);
            first[at] = m;
            second[at] = v;
        }
    }
}
