/* SPDX-License-Identifier: Apache-2.0 */
/* Pooling and means. */
#include "ep_arithmetic.h"

#if EP_MVE
#include <arm_mve.h>
#endif

typedef struct {
  int32_t top, bottom, left, right;
} window;

/* The part of a window that lies in the image. */
static window window_at(const ep_pool *p, int32_t y, int32_t x) {
  const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
  window w = {top < 0 ? 0 : top, top + p->filter_h, left < 0 ? 0 : left, left + p->filter_w};
  if (w.bottom > p->in_h) w.bottom = p->in_h;
  if (w.right > p->in_w) w.right = p->in_w;
  return w;
}

void ep_average_pool_2d(const ep_pool *p, const int8_t *in, int8_t *out) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->channels) {
    for (int32_t y = 0; y < p->out_h; ++y) {
      for (int32_t x = 0; x < p->out_w; ++x) {
        const window w = window_at(p, y, x);
        const int32_t count = (w.bottom - w.top) * (w.right - w.left);
        int32_t c = 0;
#if EP_MVE
        for (; c + 8 <= p->channels && count <= 255; c += 8) { /* their sums fit into 16 bits */
          int16x8_t sums = vdupq_n_s16(0);
          for (int32_t row = w.top; row < w.bottom; ++row) {
            const int8_t *value = in + (row * p->in_w + w.left) * p->channels + c;
            for (int32_t column = w.left; column < w.right; ++column, value += p->channels)
              sums = vaddq_s16(sums, vldrbq_s16(value));
          }
          int16_t eight[8];
          vstrhq_s16(eight, sums);
          for (int32_t i = 0; i < 8; ++i) {
            const int32_t sum = eight[i], half = sum > 0 ? count / 2 : -(count / 2);
            *out++ = (int8_t)ep_clamp((sum + half) / count, p->out_min, p->out_max);
          }
        }
#endif
        for (; c < p->channels; ++c) {
          int32_t sum = 0;
          for (int32_t row = w.top; row < w.bottom; ++row) {
            const int8_t *value = in + (row * p->in_w + w.left) * p->channels + c;
            for (int32_t column = w.left; column < w.right; ++column, value += p->channels) sum += *value;
          }
          sum = sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
          *out++ = (int8_t)ep_clamp(sum, p->out_min, p->out_max);
        }
      }
    }
  }
}

void ep_max_pool_2d(const ep_pool *p, const int8_t *in, int8_t *out) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->channels) {
    for (int32_t y = 0; y < p->out_h; ++y) {
      for (int32_t x = 0; x < p->out_w; ++x) {
        const window w = window_at(p, y, x);
        int32_t c = 0;
#if EP_MVE
        for (; c < p->channels; c += 16, out += 16) {
          const mve_pred16_t some = vctp8q((uint32_t)(p->channels - c));
          int8x16_t sixteen = vdupq_n_s8(p->out_min);
          for (int32_t row = w.top; row < w.bottom; ++row) {
            const int8_t *value = in + (row * p->in_w + w.left) * p->channels + c;
            for (int32_t column = w.left; column < w.right; ++column, value += p->channels)
              sixteen = vmaxq_s8(sixteen, vldrbq_z_s8(value, some));
          }
          vstrbq_p_s8(out, vminq_s8(sixteen, vdupq_n_s8(p->out_max)), some);
        }
        out -= c - p->channels;
#elif EP_DSP
        for (; p->channels >= 4 && c < p->channels && p->out_min == -128 && p->out_max == 127; c += 4, out += 4) {
          if (c > p->channels - 4) out -= c - (p->channels - 4), c = p->channels - 4; /* some for the second time */
          int32_t four = (int32_t)0x80808080u;
          for (int32_t row = w.top; row < w.bottom; ++row) {
            const int8_t *value = in + (row * p->in_w + w.left) * p->channels + c;
            for (int32_t column = w.left; column < w.right; ++column, value += p->channels)
              four = ep_largest4(ep_load4(value), four);
          }
          ep_store4(out, four);
        }
#endif
        for (; c < p->channels; ++c) {
          int32_t largest = -128;
          for (int32_t row = w.top; row < w.bottom; ++row) {
            const int8_t *value = in + (row * p->in_w + w.left) * p->channels + c;
            for (int32_t column = w.left; column < w.right; ++column, value += p->channels)
              if (*value > largest) largest = *value;
          }
          *out++ = (int8_t)ep_clamp(largest, p->out_min, p->out_max);
        }
      }
    }
  }
}

static int32_t sum_over(const ep_mean *p, const int8_t *in) {
  int32_t sum = 0;
  for (int32_t i = 0; i < p->over[0]; ++i)
    for (int32_t j = 0; j < p->over[1]; ++j)
      for (int32_t k = 0; k < p->over[2]; ++k)
        for (int32_t l = 0; l < p->over[3]; ++l) {
          const int8_t *value = in + i * p->over_stride[0] + j * p->over_stride[1] + k * p->over_stride[2] + l * p->over_stride[3];
          for (int32_t m = 0; m < p->over[4]; ++m, value += p->over_stride[4]) sum += *value;
        }
  return sum;
}

void ep_mean_over(const ep_mean *p, const int8_t *in, int8_t *out) {
  for (int32_t i = 0; i < p->size[0]; ++i)
    for (int32_t j = 0; j < p->size[1]; ++j)
      for (int32_t k = 0; k < p->size[2]; ++k)
        for (int32_t l = 0; l < p->size[3]; ++l) {
          const int8_t *first = in + i * p->stride[0] + j * p->stride[1] + k * p->stride[2] + l * p->stride[3];
          for (int32_t m = 0; m < p->size[4]; ++m, first += p->stride[4]) {
            const int32_t mean = ep_rescale(sum_over(p, first) - p->zero_sum, p->multiplier, p->shift) + p->out_zero;
            *out++ = (int8_t)ep_clamp(mean, -128, 127);
          }
        }
}
