/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise convolutions by planes.
 *
 * One channel of the rows that a band of output rows reads is laid out with its padding as a plane, so that neighbours of
 * a row are neighbours in memory. Four of them are one load; with DSP instructions two SXTB16 and two SMLAD make four
 * products of them.
 */
#include "ep_arithmetic.h"

#if EP_FAST && !EP_MVE

EP_OUT_OF_LINE void copy_plane(const ep_conv *p, const ep_area *a, const int8_t *in, int8_t *plane) {
  const int32_t step = p->in_c;
  for (int32_t row = 0; row < a->image_rows; ++row) {
    const int8_t *from = in + (a->image_row + row) * p->in_w * step;
    int8_t *to = plane + (a->top + row) * a->width + a->first;
    int32_t left = a->copied;
    for (; left >= 4; left -= 4, to += 4) {
      to[0] = *from, from += step;
      to[1] = *from, from += step;
      to[2] = *from, from += step;
      to[3] = *from, from += step;
    }
    for (; left > 0; --left, from += step) *to++ = *from;
  }
}

#if EP_DSP
/* A row of outputs of a kernel of 3x3, two at a time at stride 1. (w0, w2) and w1 of each row meet (x0, x2) and (x1, x3);
 * for the next output they meet (x1, x3) and x2. */
typedef struct {
  int32_t outer[3], middle[3];
} three;

static three three_of(const int8_t *w) {
  three k;
  for (int32_t i = 0; i < 3; ++i) {
    const int32_t word = ep_load4(w + 4 * i);
    k.outer[i] = ep_even_bytes(word), k.middle[i] = ep_odd_bytes(word);
  }
  return k;
}

#define EP_TWO(i, at)                                          \
  {                                                            \
    const int32_t word = ep_load4(x + (at));                   \
    const int32_t even = ep_even_bytes(word), odd = ep_odd_bytes(word); \
    a = ep_smlad(even, o##i, a);                               \
    a = ep_smlabb(odd, m##i, a);                               \
    b = ep_smlad(odd, o##i, b);                                \
    b = ep_smlatb(even, m##i, b);                              \
  }
#define EP_ONE(i, at)                                          \
  {                                                            \
    const int32_t word = ep_load4(x + (at));                   \
    a = ep_smlad(ep_even_bytes(word), o##i, a);                \
    a = ep_smlabb(ep_odd_bytes(word), m##i, a);                \
  }

#if defined(__ARM_FEATURE_DSP) && defined(__GNUC__)
#define EP_IN_ASSEMBLER 1
/* What a channel's outputs at stride 1 need; the assembler knows the offsets. */
typedef struct {
  int32_t outer[3], middles, last_middle, right, step; /* in registers */
  const int8_t *end;                                   /* of the pairs of a row */
  int32_t bias, multiplier, half;                      /* these and what follows on the stack */
  int32_t skip; /* from the end of a row to the next */
  int32_t rows, odd;
} ep_channel;

/* In assembler, since a compiler keeps too much of it in memory: r0 x, r1 the width, r2-r4 outer weights, r5 the middle
 * ones of the first two rows and r6 that of the last, r7 right, r8 the step, r9 out, r10 and r11 sums, r12 and lr values. */
__attribute__((naked, noinline)) static void channel_3x3(const int8_t *x, int32_t width, const ep_channel *channel,
                                                         int8_t *out) {
  __asm__ volatile(
      "push {r4-r11, lr}\n"
      "sub sp, #28\n"
      "mov r9, r3\n"
      "add r12, r2, #28\n"
      "ldm r12, {r4-r8, r10, r11}\n"
      "stm sp, {r4-r8, r10, r11}\n" /* end, bias, multiplier, half, skip, rows, odd */
      "ldm r2, {r2-r8}\n"
#define EP_OUTER(first)                       \
  "sxtb16 lr, r12, ror #8\n"                 \
  "sxtb16 r12, r12\n"                        \
  "smlad r10, r12, " first ", r10\n"
#define EP_BOTH(outer, middle, half)          \
  EP_OUTER(outer)                             \
  "smlad r11, lr, " outer ", r11\n"          \
  "smlab" half " r10, lr, " middle ", r10\n" \
  "smlat" half " r11, r12, " middle ", r11\n"
#define EP_FIRST(outer, middle, half)         \
  EP_OUTER(outer)                             \
  "smlab" half " r10, lr, " middle ", r10\n"
#define EP_OUT(sum)                           \
  "lsl " sum ", " sum ", #1\n"               \
  "smmulr " sum ", " sum ", r12\n"           \
  "add " sum ", " sum ", " sum ", asr #31\n" \
  "add " sum ", " sum ", lr\n"               \
  "asr " sum ", " sum ", r7\n"               \
  "ssat " sum ", #8, " sum "\n"              \
  "strb " sum ", [r9]\n"                     \
  "add r9, r9, r8\n"
      "1:\n"
      "ldr r10, [sp, #4]\n"
      "ldr r12, [r0, r1]\n"
      "mov r11, r10\n"
      EP_BOTH("r3", "r5", "t")
      "ldr r12, [r0, r1, lsl #1]\n"
      EP_BOTH("r4", "r6", "b")
      "ldr r12, [r0], #2\n"
      EP_BOTH("r2", "r5", "b")
      "ldrd r12, lr, [sp, #8]\n"
      EP_OUT("r10")
      EP_OUT("r11")
      "ldr r12, [sp]\n"
      "cmp r0, r12\n"
      "bne 1b\n"
      "ldr lr, [sp, #24]\n"
      "cmp lr, #0\n"
      "beq 2f\n"
      "ldr r10, [sp, #4]\n"
      "ldr r12, [r0, r1]\n"
      EP_FIRST("r3", "r5", "t")
      "ldr r12, [r0, r1, lsl #1]\n"
      EP_FIRST("r4", "r6", "b")
      "ldr r12, [r0]\n"
      EP_FIRST("r2", "r5", "b")
      "ldrd r12, lr, [sp, #8]\n"
      EP_OUT("r10")
      "ldr r12, [sp]\n"
      "2:\n"
      "add r12, r12, r1\n"
      "str r12, [sp]\n"
      "ldrd r12, lr, [sp, #16]\n"
      "add r0, r0, r12\n"
      "subs lr, lr, #1\n"
      "str lr, [sp, #20]\n"
      "bne 1b\n"
      "add sp, #28\n"
      "pop {r4-r11, pc}\n");
}
#endif

static inline void row_3x3(const int8_t *x, int32_t width, const three *k, const ep_stage *stage, int32_t bias, int wide,
                           int32_t count, int32_t stride, int8_t *out, int32_t step) {
  const int32_t o0 = k->outer[0], o1 = k->outer[1], o2 = k->outer[2];
  const int32_t m0 = k->middle[0], m1 = k->middle[1], m2 = k->middle[2];
  if (stride == 1) {
    for (; count >= 2; count -= 2, x += 2) {
      int32_t a = bias, b = bias;
      EP_TWO(0, 0)
      EP_TWO(1, width)
      EP_TWO(2, 2 * width)
      *out = ep_staged(stage, wide, a), out += step;
      *out = ep_staged(stage, wide, b), out += step;
    }
  }
  for (; count > 0; --count, x += stride) {
    int32_t a = bias;
    EP_ONE(0, 0)
    EP_ONE(1, width)
    EP_ONE(2, 2 * width)
    *out = ep_staged(stage, wide, a), out += step;
  }
}
#else
#define EP_TWO(i)                                          \
  {                                                        \
    const int32_t w0 = w[4 * (i)], w1 = w[4 * (i) + 1], w2 = w[4 * (i) + 2]; \
    int32_t value = at[0];                                 \
    a += value * w0;                                       \
    value = at[1];                                         \
    a += value * w1, b += value * w0;                      \
    value = at[2];                                         \
    a += value * w2, b += value * w1;                      \
    value = at[3];                                         \
    b += value * w2;                                       \
  }
#define EP_ONE(i) a += at[0] * w[4 * (i)] + at[1] * w[4 * (i) + 1] + at[2] * w[4 * (i) + 2];

static inline void row_3x3(const int8_t *x, int32_t width, const int8_t *w, const ep_stage *stage, int32_t bias, int wide,
                           int32_t count, int32_t stride, int8_t *out, int32_t step) {
  if (stride == 1) {
    for (; count >= 2; count -= 2, x += 2) {
      const int8_t *at = x;
      int32_t a = bias, b = bias;
      EP_TWO(0)
      at += width;
      EP_TWO(1)
      at += width;
      EP_TWO(2)
      *out = ep_staged(stage, wide, a), out += step;
      *out = ep_staged(stage, wide, b), out += step;
    }
  }
  for (; count > 0; --count, x += stride) {
    const int8_t *at = x;
    int32_t a = bias;
    EP_ONE(0)
    at += width;
    EP_ONE(1)
    at += width;
    EP_ONE(2)
    *out = ep_staged(stage, wide, a), out += step;
  }
}
#endif

/* A row of outputs of a kernel of any size. */
static void row_any(const ep_conv *p, const int8_t *x, int32_t width, const int8_t *weights, const ep_stage *stage,
                    int32_t bias, int wide, int8_t *out) {
  const int32_t fours = (p->kernel_w + 3) / 4;
  for (int32_t i = 0; i < p->out_w; ++i, x += p->stride_w, out += p->out_c) {
    const int8_t *w = weights, *at = x;
    int32_t sum = bias;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky, at += width - 4 * fours) {
      for (int32_t k = fours; k > 0; --k, w += 4, at += 4) {
#if EP_DSP
        const int32_t u = ep_load4(w), v = ep_load4(at);
        sum = ep_smlad(ep_even_bytes(u), ep_even_bytes(v), sum);
        sum = ep_smlad(ep_odd_bytes(u), ep_odd_bytes(v), sum);
#else
        sum += w[0] * at[0] + w[1] * at[1] + w[2] * at[2] + w[3] * at[3];
#endif
      }
    }
    *out = ep_staged(stage, wide, sum);
  }
}

static inline void one_band(const ep_conv *p, const int8_t *in, int8_t *out, int8_t *plane, int32_t y, int32_t rows, int wide) {
  const ep_area a = ep_area_of(p, y, rows);
  const int32_t repeat = p->out_c / p->in_c, size = p->kernel_h * ((p->kernel_w + 3) / 4 * 4);
  const int is_3x3 = p->kernel_h == 3 && p->kernel_w == 3;
  memset(plane, p->in_zero, (size_t)(a.width * a.rows));
  const int8_t *weights = p->weights;
  for (int32_t c = 0; c < p->out_c; ++c, weights += size) {
    if (c % repeat == 0) copy_plane(p, &a, in + c / repeat, plane);
    const ep_stage stage = ep_stage_of(p, c);
    const int32_t bias = p->bias[c];
    const int8_t *x = plane;
    int8_t *to = out + y * p->out_w * p->out_c + c;
    if (is_3x3) {
#if EP_DSP
      const three kernel = three_of(weights), *k = &kernel;
#if EP_IN_ASSEMBLER
      if (wide && p->stride_h == 1 && p->stride_w == 1 && p->out_w > 1) {
        const int32_t pairs = p->out_w & ~1;
        const ep_channel channel = {{k->outer[0], k->outer[1], k->outer[2]}, (k->middle[0] & 0xffff) | k->middle[1] << 16,
                                    k->middle[2], stage.right, p->out_c, x + pairs, bias, stage.multiplier, stage.half,
                                    a.width - pairs, rows, p->out_w & 1};
        channel_3x3(x, a.width, &channel, to);
        continue;
      }
#endif
#else
      const int8_t *k = weights;
#endif
      for (int32_t row = 0; row < rows; ++row, x += p->stride_h * a.width, to += p->out_w * p->out_c)
        row_3x3(x, a.width, k, &stage, bias, wide, p->out_w, p->stride_w, to, p->out_c);
    } else {
      for (int32_t row = 0; row < rows; ++row, x += p->stride_h * a.width, to += p->out_w * p->out_c)
        row_any(p, x, a.width, weights, &stage, bias, wide, to);
    }
  }
}

void ep_depthwise_conv_2d_fast(const ep_conv *p, const int8_t *in, int8_t *out, void *scratch) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c) {
    for (int32_t y = 0; y < p->out_h; y += p->band) {
      const int32_t rows = p->out_h - y < p->band ? p->out_h - y : p->band;
      if (ep_is_wide(p))
        one_band(p, in, out, (int8_t *)scratch, y, rows, 1);
      else
        one_band(p, in, out, (int8_t *)scratch, y, rows, 0);
    }
    out += p->out_h * p->out_w * p->out_c;
  }
}
#endif
