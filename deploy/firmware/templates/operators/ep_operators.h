/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels of the operators in which networks spend little time, and of those with int16 activations. They hold to what
 * ep_kernels.h says. Names that end in _16 work on int16, whose zero points are 0. */
#ifndef EP_OPERATORS_H_
#define EP_OPERATORS_H_

#include "ep_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ARG_MAX and ARG_MIN: the first of the largest along the middle of three dimensions. */
typedef struct {
  int32_t outer, count, inner;
  int8_t sign; /* 1 for the largest, -1 for the smallest */
} ep_arg;

/* RESIZE_BILINEAR: where each output row and column lies between two of the input. */
typedef struct {
  const int16_t *rows;    /* [out_h][3]: the two input rows, and the distance from the first in 1/1024 */
  const int16_t *columns; /* [out_w][3] */
  uint16_t batches, in_h, in_w, channels, out_h, out_w;
} ep_bilinear;

/* TRANSPOSE_CONV. A sum of int8 has a bias of 32 bits, one of int16 has one of 64. */
typedef struct {
  const int8_t *weights;      /* [out_c][kernel_h][kernel_w][in_c] */
  const int32_t *bias;        /* [out_c] */
  const int64_t *wide_bias;   /* the same, for int16 */
  const int32_t *multipliers; /* [out_c], 31 fractional bits; for int16, 15 */
  const int8_t *shifts;       /* [out_c], left if positive */
  uint16_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
  uint16_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  int8_t in_zero, out_zero;
  int16_t out_min, out_max;
} ep_transposed;

/* CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED of int16 activations and int8 weights. */
typedef struct {
  const int8_t *weights;      /* [out_c][kernel_h][kernel_w][group_c] */
  const int64_t *bias;        /* [out_c] */
  const int32_t *multipliers; /* [out_c], 15 fractional bits; 31 where sums are narrow */
  const int8_t *shifts;       /* [out_c], left if positive */
  uint16_t batches, in_h, in_w, in_c, out_h, out_w, out_c;
  uint16_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  uint16_t group_c;
  uint8_t narrow; /* sums have 32 bits */
  int16_t out_min, out_max;
} ep_conv_wide;

/* AVERAGE_POOL_2D and MAX_POOL_2D of int16. */
typedef struct {
  uint16_t batches, in_h, in_w, channels, out_h, out_w;
  uint16_t filter_h, filter_w, stride_h, stride_w, pad_top, pad_left;
  int16_t out_min, out_max;
} ep_pool_wide;

/* BATCH_MATMUL: out[batch][row][column] is the sum over `depth`; strides of a broadcast dimension are 0. */
typedef struct {
  int32_t batch[3], a_stride[3], b_stride[3];
  int32_t rows, columns, depth, a_row, a_depth, b_column, b_depth;
  int32_t multiplier; /* 31 fractional bits; for int16, 15 */
  int8_t shift, a_zero, b_zero, out_zero;
} ep_matmul;

/* GATHER: rows of `bytes` by their numbers. */
typedef struct {
  int32_t batches, outer, size, count, bytes;
} ep_gather_plan;

typedef struct {
  int32_t rows, depth;
  int32_t count;               /* differences to the largest that count; further ones are nothing */
  const int32_t *differences;  /* [count], -i * scale, 26 fractional bits */
  const int32_t *exponentials; /* [count], of them, 31 fractional bits */
  int32_t multiplier;          /* back to the input's scale, 31 fractional bits */
  int8_t shift;
} ep_log_softmax_plan;

typedef struct {
  int32_t rows, depth;
  const int16_t *exponentials; /* [513], from exp(-10) to exp(0), 15 fractional bits */
  const int16_t *reciprocals;  /* [513], from 1 to 1/2, 15 fractional bits */
  int32_t multiplier;          /* to 65,535 steps for 10, 31 fractional bits */
  int8_t shift;
} ep_softmax_wide;

/* UNIDIRECTIONAL_SEQUENCE_LSTM. Gates lie in the order input, forget, cell, output. */
#define EP_LSTM_FIELDS(bias_type)                                                                          \
  const uint16_t *table;                                /* see ep_logistic_16 */                           \
  const int8_t *input_weights, *hidden_weights;         /* [4][size][inputs] and [4][size][size] */        \
  const bias_type *input_bias, *hidden_bias;            /* [4][size], less zero points times weights */    \
  const int32_t *input_factor, *hidden_factor;          /* [4][2]: multiplier and shift */                 \
  int32_t batches, steps, inputs, size, forget, update, output; /* the last three: multipliers */          \
  int32_t clip, tanh_multiplier;                                                                           \
  int8_t forget_shift, update_shift, output_shift, tanh_shift, in_zero, hidden_zero, time_major;

typedef struct {
  EP_LSTM_FIELDS(int32_t)
} ep_lstm_narrow;

typedef struct {
  EP_LSTM_FIELDS(int64_t)
} ep_lstm_wide;

/* Both states are read and written; `work` is 8 bytes for each cell. */
void ep_lstm(const ep_lstm_narrow *layer, const int8_t *in, int8_t *hidden, int16_t *cell, int8_t *out, void *work);
void ep_lstm_16(const ep_lstm_wide *layer, const int16_t *in, int16_t *hidden, int16_t *cell, int16_t *out, void *work);

/* Two operands; PRELU's are the input and its slopes. */
void ep_maximum(const ep_binary *layer, const int8_t *a, const int8_t *b, int8_t *out);
void ep_minimum(const ep_binary *layer, const int8_t *a, const int8_t *b, int8_t *out);
void ep_prelu(const ep_binary *layer, const int8_t *in, const int8_t *slopes, int8_t *out);
void ep_div(const ep_binary *layer, const int8_t *a, const int8_t *b, int8_t *out);
void ep_squared_difference(const ep_binary *layer, const int8_t *a, const int8_t *b, int8_t *out);
void ep_add_32(const ep_binary *layer, const int32_t *a, const int32_t *b, int32_t *out); /* wraps */
void ep_add_16(const ep_binary *layer, const int16_t *a, const int16_t *b, int16_t *out);
void ep_sub_16(const ep_binary *layer, const int16_t *a, const int16_t *b, int16_t *out);
void ep_mul_16(const ep_binary *layer, const int16_t *a, const int16_t *b, int16_t *out);
void ep_maximum_16(const ep_binary *layer, const int16_t *a, const int16_t *b, int16_t *out);
void ep_minimum_16(const ep_binary *layer, const int16_t *a, const int16_t *b, int16_t *out);
void ep_prelu_16(const ep_binary *layer, const int16_t *in, const int8_t *slopes, int16_t *out);

void ep_reduce_max(const ep_mean *layer, const int8_t *in, int8_t *out);
void ep_reduce_min(const ep_mean *layer, const int8_t *in, int8_t *out);
void ep_mean_over_16(const ep_mean *layer, const int16_t *in, int16_t *out);
void ep_arg_extreme(const ep_arg *layer, const int8_t *in, int32_t *out);

void ep_resize_bilinear(const ep_bilinear *layer, const int8_t *in, int8_t *out);
void ep_fill_16(int16_t value, int32_t count, int16_t *out);
void ep_fill_32(int32_t bits, int32_t count, void *out);
void ep_gather(const ep_gather_plan *layer, const void *in, const int32_t *which, void *out);
void ep_log_softmax(const ep_log_softmax_plan *layer, const int8_t *in, int8_t *out);

void ep_transpose_conv(const ep_transposed *layer, const int8_t *in, int8_t *out);
void ep_transpose_conv_16(const ep_transposed *layer, const int16_t *in, int16_t *out);
void ep_batch_matmul(const ep_matmul *layer, const int8_t *a, const int8_t *b, int8_t *out);
void ep_batch_matmul_16(const ep_matmul *layer, const int16_t *a, const int16_t *b, int16_t *out);

void ep_conv_2d_16(const ep_conv_wide *layer, const int16_t *in, int16_t *out);
void ep_average_pool_2d_16(const ep_pool_wide *layer, const int16_t *in, int16_t *out);
void ep_max_pool_2d_16(const ep_pool_wide *layer, const int16_t *in, int16_t *out);
/* in * positive / 2^31 * 2^positive_shift where it is not negative, else with the other factor; then clamped. */
void ep_two_slopes_16(int32_t positive, int32_t positive_shift, int32_t negative, int32_t negative_shift, int32_t low,
                      int32_t high, int32_t count, const int16_t *in, int16_t *out);
/* Both take the same table, [256] of 1 / (1 + exp(-i / 24)) * 2^16. */
void ep_logistic_16(const uint16_t table[256], int32_t multiplier, int32_t shift, int32_t count, const int16_t *in,
                    int16_t *out);
void ep_tanh_16(const uint16_t table[256], int32_t multiplier, int32_t shift, int32_t count, const int16_t *in, int16_t *out);
void ep_softmax_16(const ep_softmax_wide *layer, const int16_t *in, int16_t *out);
/* 1 / sqrt: of 0 and below the largest. `shift` is of what has 20 more bits. */
void ep_rsqrt_16(int32_t multiplier, int32_t shift, int32_t count, const int16_t *in, int16_t *out);

/* QUANTIZE to another scale, and CAST. */
void ep_requantize_8_16(int32_t in_zero, int32_t multiplier, int32_t shift, int32_t count, const int8_t *in, int16_t *out);
void ep_requantize_16_8(int32_t out_zero, int32_t multiplier, int32_t shift, int32_t count, const int16_t *in, int8_t *out);
void ep_requantize_16_16(int32_t multiplier, int32_t shift, int32_t count, const int16_t *in, int16_t *out);
void ep_quantize_16(float scale, int32_t count, const float *in, int16_t *out);
void ep_dequantize_16(float scale, int32_t count, const int16_t *in, float *out);
void ep_cast_8_32(int32_t count, const int8_t *in, int32_t *out);
void ep_cast_16_32(int32_t count, const int16_t *in, int32_t *out);
void ep_cast_32_8(int32_t count, const int32_t *in, int8_t *out);

#ifdef __cplusplus
}
#endif

#endif
