// Operands of tensor cores: f32 numbers as two f16 terms, in the order in which they are multiplied.
//
// With y = scale x, a power of two times x: y = high + low + rest with high = f16(y), low = f16(y - high), and
// |rest| <= 2^-22 |y| + 2^-25. The scale is chosen so that the largest y is near 2^14: nothing overflows, and what
// is lost of small numbers is below 2^-38 of the largest. Two bf16 terms would need no scale, but leave 2^-18 of
// each number, which three hundred steps of Adam turn into more than their tolerance.
//
// A matrix of lines x depth (multiples of 128 and 32) is cut into chunks of 128 lines and 32 numbers of each,
// the chunks of 128 lines after each other. A chunk has 8 KiB of high terms and 8 KiB of low ones; each is made
// of cores of 8 lines x 8 numbers, 128 bytes without a gap: first the 16 cores of the first 8 numbers, then
// those of the next. Copies of chunks are linear, and eight lanes that read a core use all banks once.
#pragma once

#define LINES 128
#define DEPTH 32
#define TERM_BYTES 8192
#define CHUNK_BYTES 16384

// Where the high term of an element is.
static __device__ __forceinline__ unsigned long long packed_at(unsigned long long line, unsigned k,
                                                               unsigned depth) {
    const unsigned long long chunk = line / LINES * (depth / DEPTH) + k / DEPTH;
    const unsigned core = k % DEPTH / 8 * (LINES / 8) + static_cast<unsigned>(line % LINES) / 8;
    return chunk * CHUNK_BYTES + core * 128 + line % 8 * 16 + k % 8 * 2;
}

// Stores both terms of two neighbors of one line; k is even.
static __device__ __forceinline__ void store_terms(unsigned char* __restrict__ to, unsigned long long line,
                                                   unsigned k, unsigned depth, float x, float y,
                                                   float scale) {
    x = __fmul_rn(x, scale);
    y = __fmul_rn(y, scale);
    const unsigned high_x = HALF_BITS(x), high_y = HALF_BITS(y);
    const unsigned low_x = HALF_BITS(__fsub_rn(x, FROM_HALF(high_x)));
    const unsigned low_y = HALF_BITS(__fsub_rn(y, FROM_HALF(high_y)));
    unsigned char* place = to + packed_at(line, k, depth);
    *reinterpret_cast<unsigned*>(place) = high_x | high_y << 16;
    *reinterpret_cast<unsigned*>(place + TERM_BYTES) = low_x | low_y << 16;
}
