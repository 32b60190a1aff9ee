/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions with the vector extension of Cortex-M55 and M85 (Helium), in tiles of two channels and three positions.
 *
 * Sixteen products take one VMLADAVA. Weights lie as for the other tiles, by channel pairs in words: VLD2 of words takes
 * them apart. The lines are int8, filled up with zeros to sixteen: what is read of the weights behind a pair meets zeros.
 * Four channels at a time become int8 together.
 */
#include "ep_vectors.h"

#if EP_MVE

#define LINES 3

/* The inputs of one output position, in the order of the weights. */
EP_OUT_OF_LINE void gather(const ep_conv *p, const int8_t *in, int32_t y, int32_t x, int8_t *line) {
  const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
  const int32_t n = p->kernel_w * p->in_c;
  const int in_row = p->group_c == p->in_c && p->dilation_w == 1 && left >= 0 && left + p->kernel_w <= p->in_w;
  if (in_row && n <= 16 && p->dilation_h == 1 && top >= 0 && top + p->kernel_h <= p->in_h) { /* a row is one vector */
    const mve_pred16_t some = vctp8q((uint32_t)n);
    const int8_t *from = in + (top * p->in_w + left) * p->in_c;
    const int32_t step = p->in_w * p->in_c;
    for (int32_t ky = p->kernel_h; ky > 0; --ky, line += n, from += step) vstrbq_p_s8(line, vldrbq_z_s8(from, some), some);
    return;
  }
  EP_GATHER(p, in, top, left, line, 1, ep_copy_vectors, ep_fill_vectors)
}

/* sums[j][0..1] = bias + both channels of a pair times line j. */
static inline void dot_2x3(const int8_t *weights, const int8_t *lines, int32_t length, const int32_t *bias,
                           int32_t sums[LINES][4]) {
  const int8_t *first = lines, *second = lines + length, *third = second + length;
  int32_t a0 = bias[0], a1 = a0, a2 = a0, b0 = bias[1], b1 = b0, b2 = b0;
  for (int32_t n = length; n > 0; n -= 16, weights += 32, first += 16, second += 16, third += 16) {
    const int32x4x2_t pair = vld2q_s32((const int32_t *)(const void *)weights);
    const int8x16_t a = vreinterpretq_s8_s32(pair.val[0]), b = vreinterpretq_s8_s32(pair.val[1]);
    int8x16_t line = vldrbq_s8(first);
    a0 = vmladavaq_s8(a0, a, line), b0 = vmladavaq_s8(b0, b, line);
    line = vldrbq_s8(second);
    a1 = vmladavaq_s8(a1, a, line), b1 = vmladavaq_s8(b1, b, line);
    line = vldrbq_s8(third);
    a2 = vmladavaq_s8(a2, a, line), b2 = vmladavaq_s8(b2, b, line);
  }
  sums[0][0] = a0, sums[0][1] = b0, sums[1][0] = a1, sums[1][1] = b1, sums[2][0] = a2, sums[2][1] = b2;
}

static inline void dot_2x1(const int8_t *weights, const int8_t *line, int32_t length, const int32_t *bias, int32_t sums[4]) {
  int32_t a = bias[0], b = bias[1];
  for (int32_t n = length; n > 0; n -= 16, weights += 32, line += 16) {
    const int32x4x2_t pair = vld2q_s32((const int32_t *)(const void *)weights);
    const int8x16_t values = vldrbq_s8(line);
    a = vmladavaq_s8(a, vreinterpretq_s8_s32(pair.val[0]), values);
    b = vmladavaq_s8(b, vreinterpretq_s8_s32(pair.val[1]), values);
  }
  sums[0] = a, sums[1] = b;
}

/* Four channels of up to three positions: sums to int8. */
static inline void store_four(const ep_conv *p, int32_t c, int32_t count, int32_t sums[LINES][4], int8_t *out, int32_t here) {
  const mve_pred16_t some = vctp32q((uint32_t)count);
  const ep_four_stages stages = ep_stages_of(p, c, some);
  for (int32_t j = 0; j < here; ++j, out += p->out_c)
    vstrbq_p_s32(out + c, ep_staged_four(p, &stages, vldrwq_s32(sums[j])), some);
}

static void one_image(const ep_conv *p, const int8_t *in, int8_t *out, int8_t *scratch) {
  const int32_t groups = p->in_c / p->group_c, group_out = p->out_c / groups;
  const int32_t products = p->kernel_h * p->kernel_w * p->group_c, rounds = (products + 3) / 4;
  const int32_t count = p->out_h * p->out_w, group_weights = (group_out + 1) / 2 * 8 * rounds;
  const int in_place = p->in_place && products % 16 == 0;
  const int32_t length = (products + 15) / 16 * 16;
  if (!in_place) memset(scratch, 0, (size_t)(LINES * length));
  for (int32_t group = 0; group < groups; ++group) {
    int32_t y = 0, x = 0;
    for (int32_t i = 0; i < count; i += LINES) {
      const int32_t here = count - i < LINES ? count - i : LINES;
      const int8_t *lines = in_place && here == LINES ? in + i * products : scratch;
      for (int32_t j = 0; j < here && lines == scratch; ++j) {
        if (in_place)
          ep_copy_vectors(scratch + j * length, in + (i + j) * products, products);
        else
          gather(p, in + group * p->group_c, y, x, scratch + j * length);
        if (++x == p->out_w) x = 0, ++y;
      }
      const int8_t *weights = p->weights + group * group_weights;
      int32_t c = group * group_out;
      const int32_t last = c + group_out;
      for (; c < last; c += 4) {
        int32_t sums[LINES][4];
        for (int32_t k = 0; k < 4 && c + k < last; k += 2, weights += 8 * rounds) {
          const int32_t bias[2] = {p->bias[c + k], p->bias[c + k + 1 < last ? c + k + 1 : c + k]};
          if (here == 1)
            dot_2x1(weights, lines, length, bias, sums[0] + k);
          else
            dot_2x3(weights, lines, length, bias, (int32_t(*)[4])(sums[0] + k));
        }
        store_four(p, c, last - c < 4 ? last - c : 4, sums, out + i * p->out_c, here);
      }
    }
  }
}

void ep_conv_2d_fast(const ep_conv *p, const int8_t *in, int8_t *out, void *scratch) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c) {
    one_image(p, in, out, (int8_t *)scratch);
    out += p->out_h * p->out_w * p->out_c;
  }
}
#endif
