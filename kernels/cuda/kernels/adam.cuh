// One step of Adam on one element, in f32.
//
//   g = 2 (p + r)                 p: the element of D·G;  r: of the offset R_0
//   m <- m + (1 - b1) (g - m)     b1 = 0.9
//   v <- b2 v + (1 - b2) g g      b2 = 0.999
//   D <- D - step m / (sqrt(v) + epsilon)
//
// `step` and `epsilon` hold the bias corrections c1, c2 of the step: step = rate sqrt(c2) / c1 and
// epsilon = 1e-8 sqrt(c2), so that the last line is torch's (m / c1) / (sqrt(v / c2) + 1e-8).
// Kingma and Ba 2015, algorithm 1. The same operations in the same order as the processor's, each rounded by
// itself or fused as written, so that an error of the product is the only difference.
#pragma once

struct Rates {
    float step, epsilon;
};

static __device__ __forceinline__ float adam(float product, float offset, float displacement, Rates rates,
                                             float& first, float& second) {
    const float first_gain = 0.1f, second_gain = 0.001f, second_decay = 0.999f;
    const float half = __fadd_rn(product, offset);
    const float gradient = __fadd_rn(half, half);
    first = __fmaf_rn(__fsub_rn(gradient, first), first_gain, first);
    const float decayed = __fmul_rn(second, second_decay);
    second = __fmaf_rn(__fmul_rn(gradient, second_gain), gradient, decayed);
    const float below = __fadd_rn(__fsqrt_rn(second), rates.epsilon);
    const float movement = __fdiv_rn(__fmul_rn(rates.step, first), below);
    return __fsub_rn(displacement, movement);
}
