/* SPDX-License-Identifier: Apache-2.0 */
/* Integer kernels of generated networks: portable C99, no allocation, no operating system.
 *
 * Every kernel gives the same integers as the reference kernels of TFLite Micro. Activations and weights are int8 in
 * NHWC. The sizes, offsets and multipliers of a layer are in a constant structure that the generator fills in.
 *
 * Three switches choose the kernels of convolutions at compile time. EP_FAST = 0 takes the plainest C, for reading and for
 * checking the others; EP_FAST = 1 takes tiles. EP_DSP = 1 makes these of the DSP instructions of Cortex-M4, M7, M33 and
 * M55 (SMLAD and its family; on other machines they are emulated, which is for tests), EP_DSP = 0 of portable C. EP_MVE = 1
 * makes them of the vector extension of Cortex-M55 and M85.
 *
 * Fields are as narrow as they can be, since every layer has its own structure in flash.
 */
#ifndef EP_KERNELS_H_
#define EP_KERNELS_H_

#include <stdint.h>

#ifndef EP_FAST
#define EP_FAST 1
#endif
#ifndef EP_DSP
#if EP_FAST && defined(__ARM_FEATURE_DSP) && defined(__ARM_FEATURE_UNALIGNED)
#define EP_DSP 1
#else
#define EP_DSP 0
#endif
#endif

#ifndef EP_MVE
#if EP_DSP && defined(__ARM_FEATURE_MVE)
#define EP_MVE 1
#else
#define EP_MVE 0
#endif
#endif

/* 1 keeps a checksum of every layer's output, for the example to compare. */
#ifndef EP_CHECK
#define EP_CHECK 0
#endif

/* Rank of the kernels that walk over strides; the generator merges neighbouring dimensions where it can. */
#define EP_DIMS 5

#ifdef __cplusplus
extern "C" {
#endif

/* CONV_2D, DEPTHWISE_CONV_2D and (as 1x1) FULLY_CONNECTED.
 *
 * The sum of an output channel is multiplied by multiplier / 2^31 * 2^shift. Multipliers lie in [2^30, 2^31), so that
 * the two upper bits of their words are free: they say how far the channel's shift is below `largest_shift`. A layer
 * whose shifts lie more than 3 apart has them beside their multipliers instead.
 */
typedef struct {
  const int8_t *weights;       /* [out_c][kernel_h][kernel_w][group_c]; depthwise [out_c][kernel_h][kernel_w] */
  const int32_t *bias;         /* [out_c], less in_zero times the sum of the channel's weights */
  const uint32_t *multipliers; /* [out_c], 31 fractional bits, and the shift in bits 30 and 31; if `paired`, [out_c][2]: the
                                  multiplier and its shift to the right */
  uint16_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
  uint16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  uint16_t group_c; /* input channels that one output channel sees; in_c without groups */
  uint16_t band;    /* depthwise, tiled: output rows that are worked on together */
  uint8_t paired;   /* the multipliers are */
  uint8_t packed;   /* weights lie as the tiles want them, see below */
  uint8_t in_place; /* 1x1 with stride 1: the input is a row of im2col lines already */
  int8_t largest_shift;
  int8_t in_zero, out_zero; /* zero points */
  int8_t out_min, out_max;  /* of the fused activation */
} ep_conv;

typedef struct {
  uint16_t batches, in_h, in_w, channels, out_h, out_w;
  uint16_t filter_h, filter_w, stride_h, stride_w, pad_top, pad_left;
  int8_t out_min, out_max;
} ep_pool;

/* Operators of two operands with broadcasting: the strides of a broadcast dimension are 0. */
typedef struct {
  int32_t size[EP_DIMS], a_stride[EP_DIMS], b_stride[EP_DIMS];
  int32_t a_multiplier, b_multiplier, out_multiplier; /* 31 fractional bits */
  int8_t a_shift, b_shift, out_shift;                 /* left if positive */
  int8_t a_zero, b_zero, out_zero;
  int16_t out_min, out_max;
} ep_binary;

/* MEAN: `size` walks over the outputs, `over` over the values of one mean. */
typedef struct {
  int32_t size[EP_DIMS], stride[EP_DIMS], over[EP_DIMS], over_stride[EP_DIMS];
  int32_t zero_sum; /* the input's zero point times the number of values */
  int32_t multiplier;
  int8_t shift, out_zero;
} ep_mean;

/* PAD, CONCATENATION, SPLIT, STRIDED_SLICE, TRANSPOSE: bytes that move from one set of strides to another. */
typedef struct {
  int32_t size[EP_DIMS], from[EP_DIMS], to[EP_DIMS];
  int32_t from_start, to_start;
} ep_move;

typedef struct {
  const int16_t *rows;    /* [out_h]: the input row of each output row */
  const int16_t *columns; /* [out_w] */
  uint16_t batches, in_h, in_w, pixel_bytes, out_h, out_w;
} ep_resize;

typedef struct {
  int32_t rows, depth;
  int32_t exponentials_count;
  const int32_t *exponentials; /* exp(-i * beta * scale), 31 fractional bits; 0 from the count on */
} ep_softmax_plan;

void ep_conv_2d(const ep_conv *layer, const int8_t *in, int8_t *out);
void ep_depthwise_conv_2d(const ep_conv *layer, const int8_t *in, int8_t *out);
#if EP_FAST
/* For layers that the generator has found fit: shifts from -1 to -22, sums below 2^30. Weights are packed.
 *
 * Convolution: the channels of a group by pairs, four products of each by turns, zeros to a multiple of four products and
 * to an even number of channels; biases and multipliers have one more where that number is odd, and zeros follow the
 * weights up to a whole vector. `scratch`: 12 bytes for four products, 24 with EP_DSP, and 4 more unless in_place; with
 * EP_MVE three lines of whole vectors. */
void ep_conv_2d_fast(const ep_conv *layer, const int8_t *in, int8_t *out, void *scratch);
/* Depthwise: every row of a kernel with zeros to a multiple of four; no dilation. `scratch`: a plane of one channel of
 * the rows that a band reads, each of (out_w - 1) * stride_w bytes and a row of the kernel; with EP_MVE, where every input
 * channel has one output channel, 16 bytes for each tap and each position of the rows that a row of outputs reads. */
void ep_depthwise_conv_2d_fast(const ep_conv *layer, const int8_t *in, int8_t *out, void *scratch);
#endif
void ep_average_pool_2d(const ep_pool *layer, const int8_t *in, int8_t *out);
void ep_max_pool_2d(const ep_pool *layer, const int8_t *in, int8_t *out);
void ep_mean_over(const ep_mean *layer, const int8_t *in, int8_t *out);
void ep_add(const ep_binary *layer, const int8_t *a, const int8_t *b, int8_t *out);
void ep_sub(const ep_binary *layer, const int8_t *a, const int8_t *b, int8_t *out);
void ep_mul(const ep_binary *layer, const int8_t *a, const int8_t *b, int8_t *out);
void ep_copy(const ep_move *layer, const void *in, void *out);
void ep_fill(int8_t value, int32_t count, void *out);
void ep_resize_nearest(const ep_resize *layer, const void *in, void *out);
/* Any function of one int8: out[i] = table[in[i] + 128]. */
void ep_lookup(const int8_t table[256], int32_t count, const int8_t *in, int8_t *out);
void ep_softmax(const ep_softmax_plan *layer, const int8_t *in, int8_t *out);
void ep_quantize(float scale, int32_t zero, int32_t count, const float *in, int8_t *out);
uint32_t ep_checksum(const void *data, int32_t bytes);
void ep_dequantize(float scale, int32_t zero, int32_t count, const int8_t *in, float *out);

#ifdef __cplusplus
}
#endif

#endif
