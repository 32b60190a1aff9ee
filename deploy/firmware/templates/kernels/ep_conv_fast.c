/* Convolutions with the DSP instructions.
 *
 * A convolution takes two output positions at a time. Their inputs are laid out as two lines (im2col), or used in place
 * where the kernel is 1x1. Two output channels times two lines share their loads: 16 products take 8 SMLAD, 8 SXTB16
 * and 4 loads. A depthwise convolution takes four channels of two neighbouring positions at a time.
 */
#include "ep_arithmetic.h"

#if EP_FAST
#include <stddef.h>

#if defined(__GNUC__)
#define EP_OUT_OF_LINE static __attribute__((noinline))
#else
#define EP_OUT_OF_LINE static
#endif

/* sums[0..3] += a0*b0, a1*b0, a0*b1, a1*b1 over n bytes, with a1 = a0 + n and b1 = b0 + n. Out of line and not unrolled,
 * so that everything stays in the few registers. */
EP_OUT_OF_LINE void dot_2x2(const int8_t *a, const int8_t *b, int32_t n, int32_t sums[4]) {
  int32_t s00 = sums[0], s10 = sums[1], s01 = sums[2], s11 = sums[3];
  for (const int8_t *end = a + (n & ~3); a != end; a += 4, b += 4) {
    const int32_t p = ep_load4(a), q = ep_load4(a + n), u = ep_load4(b);
    const int32_t ue = ep_even_bytes(u), uo = ep_odd_bytes(u);
    const int32_t pe = ep_even_bytes(p), po = ep_odd_bytes(p);
    s00 = ep_smlad(pe, ue, s00);
    s00 = ep_smlad(po, uo, s00);
    const int32_t qe = ep_even_bytes(q), qo = ep_odd_bytes(q);
    s10 = ep_smlad(qe, ue, s10);
    s10 = ep_smlad(qo, uo, s10);
    const int32_t v = ep_load4(b + n), ve = ep_even_bytes(v), vo = ep_odd_bytes(v);
    s01 = ep_smlad(pe, ve, s01);
    s01 = ep_smlad(po, vo, s01);
    s11 = ep_smlad(qe, ve, s11);
    s11 = ep_smlad(qo, vo, s11);
  }
  for (int32_t i = n & 3; i > 0; --i, ++a, ++b) {
    s00 += a[0] * b[0];
    s10 += a[n] * b[0];
    s01 += a[0] * b[n];
    s11 += a[n] * b[n];
  }
  sums[0] = s00, sums[1] = s10, sums[2] = s01, sums[3] = s11;
}

/* sums[0..1] += a0*b, a1*b over n bytes, with a1 = a0 + step. */
EP_OUT_OF_LINE void dot_2x1(const int8_t *a, int32_t step, const int8_t *b, int32_t n, int32_t sums[2]) {
  int32_t s0 = sums[0], s1 = sums[1];
  for (const int8_t *end = a + (n & ~3); a != end; a += 4, b += 4) {
    const int32_t p = ep_load4(a), q = ep_load4(a + step), u = ep_load4(b);
    const int32_t ue = ep_even_bytes(u), uo = ep_odd_bytes(u);
    s0 = ep_smlad(ep_even_bytes(p), ue, s0);
    s0 = ep_smlad(ep_odd_bytes(p), uo, s0);
    s1 = ep_smlad(ep_even_bytes(q), ue, s1);
    s1 = ep_smlad(ep_odd_bytes(q), uo, s1);
  }
  for (int32_t i = n & 3; i > 0; --i, ++a, ++b) {
    s0 += a[0] * b[0];
    s1 += a[step] * b[0];
  }
  sums[0] = s0, sums[1] = s1;
}

/* Write channel c of two output positions; `wide` says that nothing is clamped but to the range of int8. For a single
 * position `second` is `first`, and what belongs to `first` is written last. */
EP_OUT_OF_LINE void finish(const ep_conv *p, int32_t c, int wide, int32_t sum0, int32_t sum1, int8_t *first,
                           int8_t *second) {
  const ep_factor factor = ep_factor_of(p, c);
  const int32_t right = -factor.shift;
  const int32_t half = (1 << (right - 1)) + p->out_zero * (1 << right); /* adds the zero point on the way */
  const int32_t value0 = ep_rescale_right(sum0, factor.multiplier, right, half);
  const int32_t value1 = ep_rescale_right(sum1, factor.multiplier, right, half);
  second[c] = (int8_t)(wide ? ep_saturate(value1) : ep_clamp(value1, p->out_min, p->out_max));
  first[c] = (int8_t)(wide ? ep_saturate(value0) : ep_clamp(value0, p->out_min, p->out_max));
}

static inline int is_wide(const ep_conv *p) { return p->out_max - p->out_min == 255; }

/* Channels c to last of two output positions, whose lines follow each other. */
static void positions(const ep_conv *p, int32_t c, int32_t last, int32_t n, const int8_t *line, int8_t *first,
                      int8_t *second) {
  const int wide = is_wide(p), pair = second != first;
  const int8_t *weight = p->weights + c * n;
  for (; c + 1 < last; c += 2, weight += 2 * n) {
    int32_t sums[4] = {p->bias[c], p->bias[c + 1], p->bias[c], p->bias[c + 1]};
    if (pair)
      dot_2x2(weight, line, n, sums);
    else
      dot_2x1(weight, n, line, n, sums);
    finish(p, c, wide, sums[0], sums[2], first, second);
    finish(p, c + 1, wide, sums[1], sums[3], first, second);
  }
  if (c < last) { /* an odd channel: the two lines take the place of two channels */
    int32_t sums[2] = {p->bias[c], p->bias[c]};
    dot_2x1(line, pair ? n : 0, weight, n, sums);
    finish(p, c, wide, sums[0], sums[1], first, second);
  }
}

EP_OUT_OF_LINE int8_t *copy_bytes(int8_t *to, const int8_t *from, int32_t n) {
  for (; n >= 8; n -= 8, to += 8, from += 8) {
    ep_store4(to, ep_load4(from));
    ep_store4(to + 4, ep_load4(from + 4));
  }
  for (; n > 0; --n) *to++ = *from++;
  return to;
}

EP_OUT_OF_LINE int8_t *fill_bytes(int8_t *to, int32_t value, int32_t n) {
  const int32_t word = (int32_t)((uint32_t)(value & 0xff) * 0x01010101u);
  for (; n >= 4; n -= 4, to += 4) ep_store4(to, word);
  for (; n > 0; --n) *to++ = (int8_t)value;
  return to;
}

/* The inputs of one output position, in the order of the weights. */
static void gather(const ep_conv *p, const int8_t *in, int32_t y, int32_t x, int8_t *line) {
  const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
  /* Without groups and dilation the columns of one row lie side by side. */
  const int whole = p->group_c == p->in_c && p->dilation_w == 1 && left >= 0 && left + p->kernel_w <= p->in_w;
  for (int32_t ky = 0, row = top; ky < p->kernel_h; ++ky, row += p->dilation_h) {
    if (row < 0 || row >= p->in_h) {
      line = fill_bytes(line, p->in_zero, p->kernel_w * p->group_c);
      continue;
    }
    const int8_t *start = in + row * p->in_w * p->in_c;
    if (whole) {
      line = copy_bytes(line, start + left * p->in_c, p->kernel_w * p->in_c);
      continue;
    }
    for (int32_t kx = 0, column = left; kx < p->kernel_w; ++kx, column += p->dilation_w) {
      if (column < 0 || column >= p->in_w)
        line = fill_bytes(line, p->in_zero, p->group_c);
      else
        line = copy_bytes(line, start + column * p->in_c, p->group_c);
    }
  }
}

static void one_image(const ep_conv *p, const int8_t *in, int8_t *out, int8_t *scratch) {
  const int32_t groups = p->in_c / p->group_c, group_out = p->out_c / groups;
  const int32_t n = p->kernel_h * p->kernel_w * p->group_c, count = p->out_h * p->out_w;
  const int in_place = scratch == NULL;
  for (int32_t group = 0; group < groups; ++group) {
    const int8_t *group_in = in + group * p->group_c;
    int32_t y = 0, x = 0;
    for (int32_t i = 0; i < count; i += 2) {
      const int pair = i + 1 < count;
      const int8_t *line = in_place ? in + i * n : scratch;
      for (int32_t j = 0; !in_place && j <= pair; ++j) {
        gather(p, group_in, y, x, scratch + j * n);
        if (++x == p->out_w) x = 0, ++y;
      }
      int8_t *first = out + i * p->out_c;
      positions(p, group * group_out, (group + 1) * group_out, n, line, first, pair ? first + p->out_c : first);
    }
  }
}

void ep_conv_2d_fast(const ep_conv *p, const int8_t *in, int8_t *out, int8_t *scratch) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c) {
    one_image(p, in, out, scratch);
    out += p->out_h * p->out_w * p->out_c;
  }
}

/* Where each tap of one output position reads: a place in the image, or the line of zero points. */
static void find_taps(const ep_conv *p, const int8_t *in, const int8_t *zeros, int32_t y, int32_t x, const int8_t **taps) {
  const int32_t top = y * p->stride_h - p->pad_top, left = x * p->stride_w - p->pad_left;
  for (int32_t ky = 0, row = top; ky < p->kernel_h; ++ky, row += p->dilation_h) {
    for (int32_t kx = 0, column = left; kx < p->kernel_w; ++kx, column += p->dilation_w, taps += 2) {
      const int inside = row >= 0 && row < p->in_h && column >= 0 && column < p->in_w;
      *taps = inside ? in + (row * p->in_w + column) * p->in_c : zeros;
    }
  }
}

static void one_image_depthwise(const ep_conv *p, const int8_t *in, int8_t *out, void *scratch) {
  const int32_t channels = p->out_c, tap_count = p->kernel_h * p->kernel_w, count = p->out_h * p->out_w;
  const int wide = is_wide(p);
  const int8_t **taps = (const int8_t **)scratch; /* of two positions by turns */
  int8_t *zeros = (int8_t *)(taps + 2 * tap_count);
  int32_t y = 0, x = 0;
  fill_bytes(zeros, p->in_zero, channels);
  for (int32_t i = 0; i < count; i += 2) {
    const int pair = i + 1 < count;
    int8_t *first = out + i * channels, *second = pair ? first + channels : first;
    for (int32_t j = 0; j < 2; ++j) { /* the last of an odd number is done twice */
      find_taps(p, in, zeros, y, x, taps + j);
      if (pair && ++x == p->out_w) x = 0, ++y;
    }
    for (int32_t c = 0; c < channels; c += 4) {
      if (c > channels - 4) c = channels - 4; /* the last four; some of them for the second time */
      int32_t a0 = p->bias[c], a1 = p->bias[c + 1], a2 = p->bias[c + 2], a3 = p->bias[c + 3];
      int32_t b0 = a0, b1 = a1, b2 = a2, b3 = a3;
      const int8_t *weight = p->weights + c;
      const int8_t *const *tap = taps, *const *end = taps + 2 * tap_count;
      for (; tap != end; tap += 2, weight += channels) {
        const int32_t w = ep_load4(weight), u = ep_load4(tap[0] + c), v = ep_load4(tap[1] + c);
        const int32_t we = ep_even_bytes(w), wo = ep_odd_bytes(w);
        const int32_t ue = ep_even_bytes(u), uo = ep_odd_bytes(u);
        a0 = ep_smlabb(ue, we, a0);
        a2 = ep_smlatt(ue, we, a2);
        a1 = ep_smlabb(uo, wo, a1);
        a3 = ep_smlatt(uo, wo, a3);
        const int32_t ve = ep_even_bytes(v), vo = ep_odd_bytes(v);
        b0 = ep_smlabb(ve, we, b0);
        b2 = ep_smlatt(ve, we, b2);
        b1 = ep_smlabb(vo, wo, b1);
        b3 = ep_smlatt(vo, wo, b3);
      }
      const int32_t of_first[4] = {a0, a1, a2, a3}, of_second[4] = {b0, b1, b2, b3};
      for (int32_t k = 0; k < 4; ++k) finish(p, c + k, wide, of_first[k], of_second[k], first, second);
    }
  }
}

void ep_depthwise_conv_2d_fast(const ep_conv *p, const int8_t *in, int8_t *out, void *scratch) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c) {
    one_image_depthwise(p, in, out, scratch);
    out += p->out_h * p->out_w * p->out_c;
  }
}
#endif
