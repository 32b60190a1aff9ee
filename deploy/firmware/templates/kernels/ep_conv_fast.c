/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions in tiles of two output channels and three output positions.
 *
 * The inputs of three positions are laid out as three lines (im2col), four values of each by turns, so that a tile walks
 * over lines and weights with one pointer each. Weights are packed by channel pairs, four values of each by turns, and
 * filled up with zeros to a multiple of four: there is no tail. With DSP instructions the lines hold int16, widened once
 * for all channels, even and odd values apart, as SXTB16 leaves the weights: 24 products take 12 SMLAD, 4 SXTB16 and 4
 * loads.
 */
#include "ep_arithmetic.h"

#if EP_FAST && !EP_MVE
#if EP_DSP
/* What four values of a line take: (0, 2) and (1, 3) as int16. */
typedef struct {
  int32_t even, odd;
} ep_four;
#else
typedef struct {
  int8_t values[4];
} ep_four;
#endif

#define LINES 3

#if EP_DSP && defined(__ARM_FEATURE_DSP) && defined(__GNUC__)
#define EP_IN_ASSEMBLER 1
#endif

#if EP_DSP
static void dot_2x3(const int8_t *weights, const ep_four *lines, const ep_four *end, int32_t *sums) {
  for (; lines != end; lines += LINES, weights += 8) {
    for (int32_t channel = 0; channel < 2; ++channel) {
      const int32_t w = ep_load4(weights + 4 * channel), even = ep_even_bytes(w), odd = ep_odd_bytes(w);
      for (int32_t j = 0; j < LINES; ++j) {
        int32_t *sum = sums + LINES * channel + j;
        *sum = ep_smlad(odd, lines[j].odd, ep_smlad(even, lines[j].even, *sum));
      }
    }
  }
}
#else
EP_OUT_OF_LINE void dot_2x3(const int8_t *weights, const ep_four *lines, const ep_four *end, int32_t *sums) {
  int32_t a0 = sums[0], a1 = sums[1], a2 = sums[2], b0 = sums[3], b1 = sums[4], b2 = sums[5];
  const int8_t *x = lines->values;
  do {
#define EP_PRODUCTS(i)                                 \
  {                                                    \
    const int32_t wa = weights[i], wb = weights[4 + i]; \
    int32_t value = x[i];                              \
    a0 += wa * value;                                  \
    b0 += wb * value;                                  \
    value = x[4 + i];                                  \
    a1 += wa * value;                                  \
    b1 += wb * value;                                  \
    value = x[8 + i];                                  \
    a2 += wa * value;                                  \
    b2 += wb * value;                                  \
  }
    EP_PRODUCTS(0)
    EP_PRODUCTS(1)
    EP_PRODUCTS(2)
    EP_PRODUCTS(3)
    x += sizeof(ep_four) * LINES;
    weights += 8;
  } while (x != end->values);
  sums[0] = a0, sums[1] = a1, sums[2] = a2, sums[3] = b0, sums[4] = b1, sums[5] = b2;
}
#endif

/* sums[0], sums[1] += w0 * line, w1 * line over rounds of four values, for a position that is alone. */
EP_OUT_OF_LINE void dot_2x1(const int8_t *weights, const int8_t *line, int32_t rounds, int32_t sums[2]) {
  int32_t a = sums[0], b = sums[1];
  for (; rounds > 0; --rounds, weights += 8, line += 4) {
#if EP_DSP
    const int32_t x = ep_load4(line), u = ep_load4(weights), v = ep_load4(weights + 4);
    const int32_t even = ep_even_bytes(x), odd = ep_odd_bytes(x);
    a = ep_smlad(ep_even_bytes(u), even, a);
    a = ep_smlad(ep_odd_bytes(u), odd, a);
    b = ep_smlad(ep_even_bytes(v), even, b);
    b = ep_smlad(ep_odd_bytes(v), odd, b);
#else
    for (int32_t i = 0; i < 4; ++i) {
      const int32_t value = line[i];
      a += weights[i] * value;
      b += weights[4 + i] * value;
    }
#endif
  }
  sums[0] = a, sums[1] = b;
}

/* Four values of a line at a time to their places in the tile; the next place. */
EP_OUT_OF_LINE ep_four *spread(ep_four *to, const int8_t *from, int32_t rounds) {
#if EP_DSP
  for (; rounds >= 2; rounds -= 2, from += 8, to += 2 * LINES) {
    const int32_t word = ep_load4(from), next = ep_load4(from + 4);
    to[0].even = ep_even_bytes(word), to[0].odd = ep_odd_bytes(word);
    to[LINES].even = ep_even_bytes(next), to[LINES].odd = ep_odd_bytes(next);
  }
#endif
  for (; rounds > 0; --rounds, from += 4, to += LINES) {
#if EP_DSP
    const int32_t word = ep_load4(from);
    to->even = ep_even_bytes(word), to->odd = ep_odd_bytes(word);
#else
    memcpy(to->values, from, 4);
#endif
  }
  return to;
}

/* Rounds of one value. */
EP_OUT_OF_LINE ep_four *spread_value(ep_four *to, int32_t value, int32_t rounds) {
  const int8_t four[4] = {(int8_t)value, (int8_t)value, (int8_t)value, (int8_t)value};
  for (; rounds > 0; --rounds) to = spread(to, four, 1);
  return to;
}

EP_OUT_OF_LINE int8_t *copy_bytes(int8_t *to, const int8_t *from, int32_t n) {
#if EP_DSP /* words at any address */
  for (; n >= 8; n -= 8, to += 8, from += 8) {
    memcpy(to, from, 4);
    memcpy(to + 4, from + 4, 4);
  }
  if (n & 4) memcpy(to, from, 4), to += 4, from += 4;
  if (n & 2) memcpy(to, from, 2), to += 2, from += 2;
  if (n & 1) *to++ = *from;
#else
  for (; n >= 4; n -= 4, to += 4, from += 4) memcpy(to, from, 4);
  for (; n > 0; --n) *to++ = *from++;
#endif
  return to;
}

EP_OUT_OF_LINE int8_t *fill_bytes(int8_t *to, int32_t value, int32_t n) {
  for (; n > 0; --n) *to++ = (int8_t)value;
  return to;
}

/* Whether the window at this place lies in the image, so that its rows are whole: without groups and dilation the columns
 * of a row lie side by side. */
static inline int is_inside(const ep_conv *p, int32_t top, int32_t left) {
  return p->group_c == p->in_c && p->dilation_w == 1 && top >= 0 && left >= 0 && left + p->kernel_w <= p->in_w &&
         top + (p->kernel_h - 1) * p->dilation_h < p->in_h;
}

/* The inputs of one output position, in the order of the weights. */
static void gather(const ep_conv *p, const int8_t *in, int32_t y, int32_t x, int8_t *line) {
  const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
  if (is_inside(p, top, left)) {
    const int32_t n = p->kernel_w * p->in_c, step = p->dilation_h * p->in_w * p->in_c - n;
    const int8_t *from = in + (top * p->in_w + left) * p->in_c;
    for (int32_t ky = p->kernel_h; ky > 0; --ky, from += step) {
      int32_t left_over = n;
#if EP_DSP /* words at any address */
      for (; left_over >= 4; left_over -= 4, line += 4, from += 4) memcpy(line, from, 4);
      if (left_over & 2) memcpy(line, from, 2), line += 2, from += 2;
      if (left_over & 1) *line++ = *from++;
#else
      for (; left_over > 0; --left_over) *line++ = *from++;
#endif
    }
    return;
  }
  EP_GATHER(p, in, top, left, line, 1, copy_bytes, fill_bytes)
}

#if EP_IN_ASSEMBLER
/* Where a walk over channel pairs of a whole tile stands; the assembler knows the offsets. */
typedef struct {
  const int8_t *weights;
  const ep_four *lines, *end;
  const int32_t *bias;
  const uint32_t *multipliers;
  int8_t *out[LINES];
  int32_t channels; /* that are left */
  int32_t zero; /* twice the output's zero point and one: shifted left by `right` and back by one, it is a stage's half */
  int32_t largest; /* less the largest shift */
  int32_t odd;     /* whether the number of rounds is odd: two of them go together */
} ep_walk;

/* All sums and outputs of a tile whose outputs are clamped to the range of int8 only; one function for either form of the
 * multipliers. In assembler, since a compiler keeps too much of it in memory. r0 weights, r2 lines, r4-r9 sums (two
 * channels of three positions), r10, r11, r12 and r1 the weights as int16. */
#define EP_POSITION(a, b)            \
  "ldrd r3, lr, [r2], #8\n"          \
  "smlad " a ", r10, r3, " a "\n"    \
  "smlad " b ", r12, r3, " b "\n"    \
  "smlad " a ", r11, lr, " a "\n"    \
  "smlad " b ", r1, lr, " b "\n"
#define EP_ROUND                     \
  "ldrd r10, r12, [r0], #8\n"        \
  "sxtb16 r11, r10, ror #8\n"        \
  "sxtb16 r10, r10\n"                \
  "sxtb16 r1, r12, ror #8\n"         \
  "sxtb16 r12, r12\n"                \
  EP_POSITION("r4", "r7") EP_POSITION("r5", "r8") EP_POSITION("r6", "r9")
/* ep_rescale_right and ep_saturate: r10 multiplier, r12 right, lr twice the half. */
#define EP_STAGE(sum)                     \
  "lsl " sum ", " sum ", #1\n"            \
  "smmulr " sum ", " sum ", r10\n"        \
  "add " sum ", " sum ", " sum ", asr #31\n" \
  "add " sum ", " sum ", lr, asr #1\n"    \
  "asr " sum ", " sum ", r12\n"           \
  "ssat " sum ", #8, " sum "\n"
#define EP_STAGES(a, b, c) "lsl lr, r2, r12\n" EP_STAGE(a) EP_STAGE(b) EP_STAGE(c)
/* r2 the zero, r3 less the largest shift. */
#define EP_PACKED_CHANNEL(a, b, c)        \
  "ldr r11, [r1, #16]\n"                  \
  "ldr r10, [r11], #4\n"                  \
  "str r11, [r1, #16]\n"                  \
  "add r12, r3, r10, lsr #30\n"           \
  "bic r10, r10, #0xc0000000\n"           \
  "orr r10, r10, #0x40000000\n"           \
  EP_STAGES(a, b, c)
#define EP_PAIRED_CHANNEL(a, b, c)        \
  "ldr r11, [r1, #16]\n"                  \
  "ldrd r10, r12, [r11], #8\n"            \
  "str r11, [r1, #16]\n"                  \
  EP_STAGES(a, b, c)
#define EP_WALK(name, channel)                                           \
  __attribute__((naked, noinline)) static void name(ep_walk *walk) {     \
    __asm__ volatile(                                                    \
        "push {r0, r4-r11, lr}\n"                                        \
        "ldr r1, [r0, #8]\n"                                             \
        "push {r1}\n" /* sp[0] the end of the lines, sp[1] the walk */   \
        "ldr r0, [r0]\n"                                                 \
        "3:\n"                                                           \
        "ldr r2, [sp, #4]\n"                                             \
        "ldr r3, [r2, #12]\n"                                            \
        "ldrd r4, r7, [r3], #8\n"                                        \
        "str r3, [r2, #12]\n"                                            \
        "ldr r1, [r2, #44]\n"                                            \
        "ldr r2, [r2, #4]\n"                                             \
        "mov r5, r4\n"                                                   \
        "mov r6, r4\n"                                                   \
        "mov r8, r7\n"                                                   \
        "mov r9, r7\n"                                                   \
        "cmp r1, #0\n"                                                   \
        "bne 2f\n"                                                       \
        "1:\n" EP_ROUND                                                  \
        "2:\n" EP_ROUND                                                  \
        "ldr r3, [sp]\n"                                                 \
        "cmp r2, r3\n"                                                   \
        "bne 1b\n"                                                       \
        "ldr r1, [sp, #4]\n"                                             \
        "ldrd r2, r3, [r1, #36]\n"                                       \
        channel("r4", "r5", "r6")                                        \
        channel("r7", "r8", "r9")                                        \
        "ldr r11, [r1, #32]\n"                                           \
        "add r12, r1, #20\n"                                             \
        "ldm r12, {r2, r3, r10}\n"                                       \
        "subs r11, r11, #2\n"                                            \
        "str r11, [r1, #32]\n"                                           \
        "strb r4, [r2], #1\n"                                            \
        "strb r5, [r3], #1\n"                                            \
        "strb r6, [r10], #1\n"                                           \
        "blt 4f\n" /* the second channel of the last pair is padding */  \
        "strb r7, [r2], #1\n"                                            \
        "strb r8, [r3], #1\n"                                            \
        "strb r9, [r10], #1\n"                                           \
        "stm r12, {r2, r3, r10}\n"                                       \
        "bgt 3b\n"                                                       \
        "4:\n"                                                           \
        "pop {r1}\n"                                                     \
        "pop {r0, r4-r11, pc}\n");                                       \
  }
EP_WALK(walk_packed, EP_PACKED_CHANNEL)
EP_WALK(walk_paired, EP_PAIRED_CHANNEL)
#endif

/* Channels of one group at up to three positions. */
static void tile(const ep_conv *p, int32_t c, int32_t last, const int8_t *weights, int32_t rounds,
                        const ep_four *lines, int8_t *out, int32_t here, int wide) {
  const int32_t step = p->out_c;
  const ep_four *end = lines + LINES * rounds;
  for (; c < last; c += 2, weights += 8 * rounds) {
    const int32_t second = c + 1 < last ? c + 1 : c;
    int32_t sums[2 * LINES] = {p->bias[c], 0, 0, p->bias[second], 0, 0};
    sums[1] = sums[2] = sums[0], sums[4] = sums[5] = sums[3];
    dot_2x3(weights, lines, end, sums);
    const int32_t *sum = sums;
    for (int32_t channel = c; channel <= second; ++channel, sum += LINES) {
      const ep_stage stage = ep_stage_of(p, channel);
      int8_t *to = out + channel;
      to[0] = ep_staged(&stage, wide, sum[0]);
      if (here > 1) to[step] = ep_staged(&stage, wide, sum[1]);
      if (here > 2) to[2 * step] = ep_staged(&stage, wide, sum[2]);
    }
  }
}

static void alone(const ep_conv *p, int32_t c, int32_t last, const int8_t *weights, int32_t rounds, const int8_t *line,
                  int8_t *out, int wide) {
  for (; c < last; c += 2, weights += 8 * rounds) {
    const int32_t second = c + 1 < last ? c + 1 : c;
    int32_t sums[2] = {p->bias[c], p->bias[second]};
    dot_2x1(weights, line, rounds, sums);
    const ep_stage stage = ep_stage_of(p, c);
    out[c] = ep_staged(&stage, wide, sums[0]);
    if (second > c) {
      const ep_stage next = ep_stage_of(p, second);
      out[second] = ep_staged(&next, wide, sums[1]);
    }
  }
}

/* The same, straight into the tile, for channels in multiples of four. */
static void gather_rounds(const ep_conv *p, const int8_t *in, int32_t y, int32_t x, ep_four *to) {
  const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left, rounds = p->group_c / 4;
  if (is_inside(p, top, left)) {
    const int8_t *from = in + (top * p->in_w + left) * p->in_c;
    for (int32_t ky = p->kernel_h; ky > 0; --ky, from += p->dilation_h * p->in_w * p->in_c)
      to = spread(to, from, p->kernel_w * rounds);
    return;
  }
  EP_GATHER(p, in, top, left, to, 4, spread, spread_value)
}

static void one_image(const ep_conv *p, const int8_t *in, int8_t *out, void *scratch) {
  const int32_t groups = p->in_c / p->group_c, group_out = p->out_c / groups;
  const int32_t products = p->kernel_h * p->kernel_w * p->group_c, rounds = (products + 3) / 4;
  const int32_t count = p->out_h * p->out_w, group_weights = (group_out + 1) / 2 * 8 * rounds;
  const int wide = ep_is_wide(p), in_rounds = p->group_c % 4 == 0;
  ep_four *lines = (ep_four *)scratch;
  int8_t *gathered = p->in_place ? (int8_t *)0 : (int8_t *)(lines + LINES * rounds);
  for (int32_t group = 0; group < groups; ++group) {
    const int8_t *group_in = in + group * p->group_c, *weights = p->weights + group * group_weights;
    int32_t y = 0, x = 0;
    for (int32_t i = 0; i < count; i += LINES) {
      const int32_t here = count - i < LINES ? count - i : LINES;
      const int8_t *line = in + i * products;
      for (int32_t j = 0; j < here; ++j) {
        if (gathered && in_rounds && here > 1) {
          gather_rounds(p, group_in, y, x, lines + j);
        } else {
          if (gathered) gather(p, group_in, y, x, gathered), line = gathered;
          if (here > 1) spread(lines + j, line, rounds), line += products;
        }
        if (++x == p->out_w) x = 0, ++y;
      }
      int8_t *to = out + i * p->out_c;
      const int32_t c = group * group_out;
      if (here == 1) {
        alone(p, c, c + group_out, weights, rounds, line, to, wide);
        continue;
      }
#if EP_IN_ASSEMBLER
      if (wide && here == LINES) {
        ep_walk walk = {weights, lines, lines + LINES * rounds, p->bias + c, p->multipliers + (p->paired ? 2 * c : c),
                        {to + c, to + c + p->out_c, to + c + 2 * p->out_c}, group_out, 2 * p->out_zero + 1,
                        -p->largest_shift, rounds % 2};
        if (p->paired)
          walk_paired(&walk);
        else
          walk_packed(&walk);
        continue;
      }
#endif
      tile(p, c, c + group_out, weights, rounds, lines, to, here, wide);
    }
  }
}

void ep_conv_2d_fast(const ep_conv *p, const int8_t *in, int8_t *out, void *scratch) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c) {
    one_image(p, in, out, scratch);
    out += p->out_h * p->out_w * p->out_c;
  }
}
#endif
