/* SPDX-License-Identifier: Apache-2.0 */
/* int16 activations: convolutions, pooling, functions, and the ways to and from other types. */
#include "ep_wide.h"

#include <math.h>

#include "ep_operators.h"

/* The sum of 64 bits holds one of 32, too. Where TFLite Micro sums in 32 bits, it rounds twice. */
static int16_t written(const ep_conv_wide *p, int32_t c, int64_t sum) {
  const int32_t value = p->narrow ? ep_rescale((int32_t)sum, p->multipliers[c], p->shifts[c])
                                  : ep_rescale_wide(sum, p->multipliers[c], p->shifts[c]);
  return (int16_t)ep_clamp(value, p->out_min, p->out_max);
}

void ep_conv_2d_16(const ep_conv_wide *p, const int16_t *in, int16_t *out) {
  const int32_t kernel = p->kernel_h * p->kernel_w * p->group_c, channels = p->out_c / (p->in_c / p->group_c);
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c)
    for (int32_t y = 0; y < p->out_h; ++y)
      for (int32_t x = 0; x < p->out_w; ++x)
        for (int32_t c = 0; c < p->out_c; ++c) {
          const int8_t *weight = p->weights + c * kernel;
          const int16_t *group = in + c / channels * p->group_c;
          int64_t sum = p->bias[c];
          for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
            const int32_t in_y = y * p->stride_h - p->pad_top + ky * p->dilation_h;
            for (int32_t kx = 0; kx < p->kernel_w; ++kx, weight += p->group_c) {
              const int32_t in_x = x * p->stride_w - p->pad_left + kx * p->dilation_w;
              if (in_y < 0 || in_y >= p->in_h || in_x < 0 || in_x >= p->in_w) continue;
              const int16_t *value = group + (in_y * p->in_w + in_x) * p->in_c;
              for (int32_t i = 0; i < p->group_c; ++i) sum += value[i] * weight[i];
            }
          }
          *out++ = written(p, c, sum);
        }
}

static void pool_16(const ep_pool_wide *p, int average, const int16_t *in, int16_t *out) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->channels)
    for (int32_t y = 0; y < p->out_h; ++y)
      for (int32_t x = 0; x < p->out_w; ++x)
        for (int32_t c = 0; c < p->channels; ++c) {
          int32_t sum = 0, largest = -32768, count = 0;
          for (int32_t row = y * p->stride_h - p->pad_top, i = 0; i < p->filter_h; ++i, ++row)
            for (int32_t column = x * p->stride_w - p->pad_left, j = 0; j < p->filter_w; ++j, ++column) {
              if (row < 0 || row >= p->in_h || column < 0 || column >= p->in_w) continue;
              const int32_t value = in[(row * p->in_w + column) * p->channels + c];
              sum += value, ++count;
              if (value > largest) largest = value;
            }
          const int32_t half = sum > 0 ? count / 2 : -(count / 2);
          *out++ = (int16_t)ep_clamp(average ? (sum + half) / count : largest, p->out_min, p->out_max);
        }
}

void ep_average_pool_2d_16(const ep_pool_wide *p, const int16_t *in, int16_t *out) { pool_16(p, 1, in, out); }

void ep_max_pool_2d_16(const ep_pool_wide *p, const int16_t *in, int16_t *out) { pool_16(p, 0, in, out); }

void ep_two_slopes_16(int32_t positive, int32_t positive_shift, int32_t negative, int32_t negative_shift, int32_t low,
                      int32_t high, int32_t count, const int16_t *in, int16_t *out) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t value =
        in[i] >= 0 ? ep_rescale(in[i], positive, positive_shift) : ep_rescale(in[i], negative, negative_shift);
    out[i] = (int16_t)ep_clamp(value, low, high);
  }
}

/* What both functions do: a place in the table, interpolated between it and the next. */
static uint32_t interpolated(const uint16_t table[256], uint32_t distance, int32_t bits) {
  const uint32_t at = distance >> bits, rest = distance & ((1u << bits) - 1u);
  return ((uint32_t)table[at] << bits) + rest * (uint32_t)(table[at + 1] - table[at]);
}

static int32_t scaled_input(int32_t x, int32_t multiplier, int32_t shift) {
  return (x * multiplier + (shift > 0 ? 1 << (shift - 1) : 0)) >> shift;
}

void ep_logistic_16(const uint16_t table[256], int32_t multiplier, int32_t shift, int32_t count, const int16_t *in,
                    int16_t *out) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t x = scaled_input(in[i], multiplier, shift);
    const uint32_t distance = (uint32_t)(x < 0 ? -x : x);
    const uint32_t value = distance >> 9 >= 255 ? 0x7fffu << 10 : interpolated(table, distance, 9);
    out[i] = (int16_t)((x >= 0 ? value + (1u << 9) : (1u << 25) - value + (1u << 9) - 1u) >> 10);
  }
}

void ep_tanh_16(const uint16_t table[256], int32_t multiplier, int32_t shift, int32_t count, const int16_t *in, int16_t *out) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t x = scaled_input(in[i], multiplier, shift);
    const uint32_t distance = (uint32_t)(x < 0 ? -x : x);
    const int32_t value = distance >> 8 >= 255 ? 0xffff << 8 : (int32_t)interpolated(table, distance, 8);
    out[i] = (int16_t)((x >= 0 ? value - (1 << 23) + (1 << 7) : -value + (1 << 23) + (1 << 7) - 1) >> 8);
  }
}

/* A place of 65,536 between the 513 of a table. */
static int32_t between(const int16_t *table, int32_t place) {
  const int32_t at = place >> 7;
  return table[at] + (((table[at + 1] - table[at]) * (place & 127) + 64) >> 7);
}

void ep_softmax_16(const ep_softmax_wide *p, const int16_t *in, int16_t *out) {
  for (int32_t row = 0; row < p->rows; ++row, in += p->depth, out += p->depth) {
    int32_t largest = INT16_MIN, sum = 0, right = 14;
    for (int32_t i = 0; i < p->depth; ++i)
      if (in[i] > largest) largest = in[i];
    for (int32_t i = 0; i < p->depth; ++i) {
      const int32_t place = 65535 + ep_rescale(in[i] - largest, p->multiplier, p->shift);
      out[i] = (int16_t)between(p->exponentials, place < 0 ? 0 : place);
      sum += out[i];
    }
    while (sum >> (right + 1)) ++right; /* at least exp(0), whose leading one is the 15th */
    const int32_t fraction = (int32_t)((((int64_t)sum << (30 - right)) + (1 << 13)) >> 14) - (1 << 16);
    const int32_t reciprocal = between(p->reciprocals, fraction > 65535 ? 65535 : fraction);
    for (int32_t i = 0; i < p->depth; ++i) {
      const int32_t value = (int32_t)(((int64_t)out[i] * reciprocal + (1 << (right - 1))) >> right);
      out[i] = (int16_t)ep_clamp(value, 0, 32767);
    }
  }
}

static int32_t power_saturated(int32_t x, int32_t exponent) {
  const int64_t y = (int64_t)x * ((int64_t)1 << exponent);
  return y > INT32_MAX ? INT32_MAX : y < INT32_MIN ? INT32_MIN : (int32_t)y;
}

/* 1 / sqrt(x) for x > 1 below 2^15, with 20 more bits: five of Newton's steps with 28 fractional bits. */
static int32_t inverse_root(int32_t x) {
  int32_t right = 11, room = 0;
  for (uint32_t bits = (uint32_t)x; bits >> 31 == 0; bits <<= 1) ++room;
  const int32_t pairs = (room - 1) / 2 - 1, one_and_a_half = (1 << 28) + (1 << 27);
  right -= pairs;
  const int32_t half = ep_divide_by_power((int32_t)((uint32_t)x << (2 * pairs)) >> 1, 1);
  int32_t y = 1 << 28;
  for (int step = 0; step < 5; ++step) {
    const int32_t cube = power_saturated(ep_multiply_high(ep_multiply_high(y, y), y), 6);
    y = power_saturated(ep_multiply_high(one_and_a_half, y) - ep_multiply_high(half, cube), 3);
  }
  y = ep_multiply_high(y, 1518500250); /* sqrt(2) / 2 */
  if (right < 0) y = (int32_t)((uint32_t)y << -right), right = 0;
  return ep_rescale(1, y, 20 - right);
}

void ep_rsqrt_16(int32_t multiplier, int32_t shift, int32_t count, const int16_t *in, int16_t *out) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t root = in[i] > 1 ? inverse_root(in[i]) : ep_rescale(1, INT32_MAX, 20);
    out[i] = (int16_t)(in[i] <= 0 ? 32767 : ep_clamp(ep_rescale(root, multiplier, shift - 20), -32768, 32767));
  }
}

void ep_requantize_8_16(int32_t in_zero, int32_t multiplier, int32_t shift, int32_t count, const int8_t *in, int16_t *out) {
  for (int32_t i = 0; i < count; ++i)
    out[i] = (int16_t)ep_clamp(ep_rescale(in[i] - in_zero, multiplier, shift), -32768, 32767);
}

void ep_requantize_16_8(int32_t out_zero, int32_t multiplier, int32_t shift, int32_t count, const int16_t *in, int8_t *out) {
  for (int32_t i = 0; i < count; ++i)
    out[i] = (int8_t)ep_clamp(ep_rescale(in[i], multiplier, shift) + out_zero, -128, 127);
}

void ep_requantize_16_16(int32_t multiplier, int32_t shift, int32_t count, const int16_t *in, int16_t *out) {
  for (int32_t i = 0; i < count; ++i) out[i] = (int16_t)ep_clamp(ep_rescale(in[i], multiplier, shift), -32768, 32767);
}

void ep_quantize_16(float scale, int32_t count, const float *in, int16_t *out) {
  for (int32_t i = 0; i < count; ++i) {
    const float steps = roundf(in[i] / scale); /* compared as float: the conversion of large ones is not defined */
    out[i] = (int16_t)(steps >= 32767.0f ? 32767 : steps > -32768.0f ? (int32_t)steps : -32768);
  }
}

void ep_dequantize_16(float scale, int32_t count, const int16_t *in, float *out) {
  for (int32_t i = 0; i < count; ++i) out[i] = scale * (float)in[i];
}

void ep_cast_8_32(int32_t count, const int8_t *in, int32_t *out) {
  for (int32_t i = 0; i < count; ++i) out[i] = in[i];
}

void ep_cast_16_32(int32_t count, const int16_t *in, int32_t *out) {
  for (int32_t i = 0; i < count; ++i) out[i] = in[i];
}

void ep_cast_32_8(int32_t count, const int32_t *in, int8_t *out) {
  for (int32_t i = 0; i < count; ++i) out[i] = (int8_t)(in[i] & 0xff);
}
