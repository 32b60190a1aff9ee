/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise convolutions with the vector extension of Cortex-M55 and M85: sixteen channels of a position at a time.
 *
 * Of sixteen channels, the rows that a row of outputs reads are laid out with their padding, and the weights by taps, so
 * that a tap is one load of each. Products are int16; those of two taps fit together, and are added to sums of int32 by
 * four. VMULL and VMOVL take every second element: the four sums hold channels 0, 4, ..., then 2, 6, ..., then
 * 1, 5, ... and 3, 7, ... of the sixteen.
 */
#include "ep_vectors.h"

#if EP_MVE

static const uint8_t FIRST_CHANNEL[4] = {0, 2, 1, 3};

#define CHANNELS 16

/* Biases, multipliers and shifts to the left of sixteen channels, in the order of the sums. */
typedef struct {
  int32x4_t bias[4], multiplier[4], left[4];
} stages;

static stages stages_of(const ep_conv *p, int32_t c) {
  stages s;
  for (int32_t i = 0; i < 4; ++i) {
    const uint32x4_t channel = vaddq_n_u32(vmulq_n_u32(vidupq_n_u32(0, 1), 4), (uint32_t)(c + FIRST_CHANNEL[i]));
    const mve_pred16_t some = vcmphiq_u32(vdupq_n_u32(p->out_c), channel);
    s.bias[i] = vldrwq_gather_shifted_offset_z_s32(p->bias, channel, some);
    if (p->paired) {
      const uint32x4_t pair = vmulq_n_u32(channel, 2);
      s.multiplier[i] = vreinterpretq_s32_u32(vldrwq_gather_shifted_offset_z_u32(p->multipliers, pair, some));
      s.left[i] = vnegq_s32(vreinterpretq_s32_u32(vldrwq_gather_shifted_offset_z_u32(p->multipliers + 1, pair, some)));
    } else {
      const uint32x4_t word = vldrwq_gather_shifted_offset_z_u32(p->multipliers, channel, some);
      s.multiplier[i] = vreinterpretq_s32_u32(vorrq_u32(vandq_u32(word, vdupq_n_u32(0x3fffffffu)), vdupq_n_u32(0x40000000u)));
      s.left[i] = vsubq_s32(vdupq_n_s32(p->largest_shift), vreinterpretq_s32_u32(vshrq_n_u32(word, 30)));
    }
  }
  return s;
}

/* The padded rows of one output row. Columns beside the image are zero points already. */
EP_OUT_OF_LINE void copy_rows(const ep_conv *p, int32_t width, const int8_t *in, int32_t y, mve_pred16_t some, int8_t *rows) {
  const int32_t image = p->in_w < width - p->pad_left ? p->in_w : width - p->pad_left;
  const int8x16_t zeros = vdupq_n_s8(p->in_zero);
  for (int32_t ky = 0, row = y * p->stride_h - p->pad_top; ky < p->kernel_h; ++ky, ++row) {
    int8_t *to = rows + (ky * width + p->pad_left) * CHANNELS;
    const int8_t *from = in + row * p->in_w * p->in_c;
    if (row < 0 || row >= p->in_h)
      for (int32_t left = image; left > 0; --left, to += CHANNELS) vstrbq_s8(to, zeros);
    else
      for (int32_t left = image; left > 0; --left, to += CHANNELS, from += p->in_c) vstrbq_s8(to, vldrbq_z_s8(from, some));
  }
}

static inline int32x4_t staged(const stages *s, int32_t i, int32x4_t sum, int32_t zero) {
  const int32x4_t value = vqrdmulhq_s32(sum, s->multiplier[i]);
  return vaddq_n_s32(vrshlq_s32(vaddq_s32(value, vshrq_n_s32(value, 31)), s->left[i]), zero); /* ties away from zero */
}

#define EP_ADD_PRODUCTS(even, odd)                                              \
  a = vaddq_s32(a, vmovlbq_s16(even)), b = vaddq_s32(b, vmovltq_s16(even));     \
  d = vaddq_s32(d, vmovlbq_s16(odd)), e = vaddq_s32(e, vmovltq_s16(odd))

/* Sixteen channels of one position. */
static inline void one_position(const ep_conv *p, const stages *st, const int8_t *at, int32_t row, const int8_t *w, int8_t *out,
                                mve_pred16_t some, int32_t kernel_h, int32_t kernel_w) {
  const int32_t step = CHANNELS, row_end = row - kernel_w * CHANNELS;
  int32x4_t a = st->bias[0], b = st->bias[1], d = st->bias[2], e = st->bias[3];
  for (int32_t ky = 0; ky < kernel_h; ++ky, at += row_end) {
    int32_t kx = kernel_w;
    for (; kx >= 2; kx -= 2) {
      int8x16_t x = vldrbq_s8(at), weight = vldrbq_s8(w);
      int16x8_t even = vmullbq_int_s8(x, weight), odd = vmulltq_int_s8(x, weight);
      at += step, w += step;
      x = vldrbq_s8(at), weight = vldrbq_s8(w);
      at += step, w += step;
      even = vaddq_s16(even, vmullbq_int_s8(x, weight)), odd = vaddq_s16(odd, vmulltq_int_s8(x, weight));
      EP_ADD_PRODUCTS(even, odd);
    }
    if (kx) {
      const int8x16_t x = vldrbq_s8(at), weight = vldrbq_s8(w);
      const int16x8_t even = vmullbq_int_s8(x, weight), odd = vmulltq_int_s8(x, weight);
      at += step, w += step;
      EP_ADD_PRODUCTS(even, odd);
    }
  }
  const int32_t zero = p->out_zero;
  const int16x8_t nothing = vdupq_n_s16(0);
  const int16x8_t even = vqmovntq_s32(vqmovnbq_s32(nothing, staged(st, 0, a, zero)), staged(st, 1, b, zero));
  const int16x8_t odd = vqmovntq_s32(vqmovnbq_s32(nothing, staged(st, 2, d, zero)), staged(st, 3, e, zero));
  int8x16_t value = vqmovntq_s16(vqmovnbq_s16(vreinterpretq_s8_s16(nothing), even), odd);
  value = vminq_s8(vmaxq_s8(value, vdupq_n_s8(p->out_min)), vdupq_n_s8(p->out_max));
  vstrbq_p_s8(out, value, some);
}

/* The weights of sixteen channels by taps. */
static void by_taps(const ep_conv *p, const int8_t *from, int32_t channels, int8_t *to) {
  const int32_t kernel_row = (p->kernel_w + 3) / 4 * 4, size = p->kernel_h * kernel_row;
  for (int32_t ky = 0; ky < p->kernel_h; ++ky)
    for (int32_t kx = 0; kx < p->kernel_w; ++kx, to += CHANNELS)
      for (int32_t c = 0; c < channels; ++c) to[c] = from[c * size + ky * kernel_row + kx];
}

/* Sixteen channels of an image. */
static void some_channels(const ep_conv *p, int32_t c, const int8_t *in, int8_t *out, int8_t *scratch) {
  const int32_t left = p->out_c - c, width = (p->out_w - 1) * p->stride_w + p->kernel_w, row = width * CHANNELS;
  const mve_pred16_t some = vctp8q((uint32_t)left);
  const stages st = stages_of(p, c);
  int8_t *weights = scratch, *rows = weights + p->kernel_h * p->kernel_w * CHANNELS;
  by_taps(p, p->weights + c * p->kernel_h * ((p->kernel_w + 3) / 4 * 4), left < CHANNELS ? left : CHANNELS, weights);
  memset(rows, p->in_zero, (size_t)(p->kernel_h * row));
  for (int32_t y = 0; y < p->out_h; ++y) {
    const int8_t *at = rows;
    const int32_t next = p->stride_w * CHANNELS;
    copy_rows(p, width, in, y, some, rows);
    if (p->kernel_h == 3 && p->kernel_w == 3)
      for (int32_t x = p->out_w; x > 0; --x, at += next, out += p->out_c) one_position(p, &st, at, row, weights, out, some, 3, 3);
    else
      for (int32_t x = p->out_w; x > 0; --x, at += next, out += p->out_c)
        one_position(p, &st, at, row, weights, out, some, p->kernel_h, p->kernel_w);
  }
}

void ep_depthwise_conv_2d_fast(const ep_conv *p, const int8_t *in, int8_t *out, void *scratch) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c, out += p->out_h * p->out_w * p->out_c)
    for (int32_t c = 0; c < p->out_c; c += CHANNELS) some_channels(p, c, in + c, out + c, (int8_t *)scratch);
}
#endif
