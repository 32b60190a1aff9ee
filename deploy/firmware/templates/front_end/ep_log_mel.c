/* SPDX-License-Identifier: Apache-2.0 */
/* Log-mel frames: a real Fourier transform, bands as runs of bins, logarithms; in float or in fixed point. */
#include "ep_log_mel.h"

#include <string.h>

typedef struct {
  ep_value re, im;
} number;
typedef struct {
  ep_factor re, im;
} factor;
typedef struct {
  ep_step slope, intercept;
} line;

#if EP_FIXED_POINT
/* value * factor / 2^16, rounded (or else every floor would lower the lowest bins): a product is halved, since a factor of 1 is
 * 32767. `summed` is a * v + b * w. */
#if defined(__arm__) && !defined(__thumb2__) /* no long multiplication there */
static inline int32_t multiplied(int32_t a, int32_t w) {
  return (a >> 16) * w + (((a & 0xffff) * w + 0x8000) >> 16);
}
static inline int32_t summed(int32_t a, int32_t v, int32_t b, int32_t w) { return multiplied(a, v) + multiplied(b, w); }
#else
static inline int32_t multiplied(int32_t a, int32_t w) {
  return (int32_t)(((int64_t)a * (w * 65536) + 0x80000000) >> 32);
}
static inline int32_t summed(int32_t a, int32_t v, int32_t b, int32_t w) {
  return (int32_t)(((int64_t)a * (v * 65536) + (int64_t)b * (w * 65536) + 0x80000000) >> 32);
}
#endif
#define PRODUCT(a, b) multiplied(a, b)
/* What is not multiplied is halved by the very same factor. */
#define HALF(x) multiplied(x, 32767)
/* a + c / sqrt(2) and a - c / sqrt(2) */
#define DIAGONAL(a, c) ((a) + ((c) - multiplied(c, 19195)))
#define DIAGONAL_OFF(a, c) ((a) - ((c) - multiplied(c, 19195)))
#else
/* a * b + c, in one instruction where there is one. */
#if defined(__FP_FAST_FMAF)
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
static inline float summed(float a, float v, float b, float w) { return FMA(b, w, a * v); }
#define PRODUCT(a, b) ((a) * (b))
#define HALF(x) (x)
#define DIAGONAL(a, c) FMA(c, 0.70710678f, a)
#define DIAGONAL_OFF(a, c) FMA(c, -0.70710678f, a)
#endif

static inline number plus(number a, number b) { return (number){a.re + b.re, a.im + b.im}; }
static inline number minus(number a, number b) { return (number){a.re - b.re, a.im - b.im}; }
/* a - i b and a + i b */
static inline number minus_i(number a, number b) { return (number){a.re + b.im, a.im - b.re}; }
static inline number plus_i(number a, number b) { return (number){a.re - b.im, a.im + b.re}; }
static inline number times(number a, factor w) {
  return (number){summed(a.re, w.re, -a.im, w.im), summed(a.re, w.im, a.im, w.re)};
}
static inline number half(number a) { return (number){HALF(a.re), HALF(a.im)}; }

#define FOUR(y0, y1, y2, y3, x0, x1, x2, x3)              \
  do {                                                    \
    const number s02 = plus(x0, x2), d02 = minus(x0, x2); \
    const number s13 = plus(x1, x3), d13 = minus(x1, x3); \
    y0 = plus(s02, s13), y2 = minus(s02, s13);            \
    y1 = minus_i(d02, d13), y3 = plus_i(d02, d13);        \
  } while (0)

/* The second half of a butterfly of eight, of those of its even and its odd inputs; the outputs are `span` apart. */
static inline void join(number *p, int32_t span, number a0, number a1, number a2, number a3, number b0, number b1, number b2,
                        number b3) {
  /* sqrt(2) b1 exp(-i pi / 4) and sqrt(2) b3 exp(-3 i pi / 4) */
  const number c1 = {b1.re + b1.im, b1.im - b1.re}, c3 = {b3.im - b3.re, -b3.re - b3.im};
  number *const q = p + 4 * span;
  p[0] = plus(a0, b0), q[0] = minus(a0, b0);
  p[span] = (number){DIAGONAL(a1.re, c1.re), DIAGONAL(a1.im, c1.im)};
  q[span] = (number){DIAGONAL_OFF(a1.re, c1.re), DIAGONAL_OFF(a1.im, c1.im)};
  p[2 * span] = minus_i(a2, b2), q[2 * span] = plus_i(a2, b2);
  p[3 * span] = (number){DIAGONAL(a3.re, c3.re), DIAGONAL(a3.im, c3.im)};
  q[3 * span] = (number){DIAGONAL_OFF(a3.re, c3.re), DIAGONAL_OFF(a3.im, c3.im)};
}

/* Two products of values and a window whose index grows or falls. */
static inline number windowed(const ep_value *v, const ep_factor *w, int32_t step) {
  return (number){PRODUCT(v[0], w[0]), PRODUCT(v[1], w[step])};
}

/* Windowed values, two of them a complex number, and the first butterflies. The window is symmetric, about the
 * middle of the frame or half a value before it. */
static void first_pass(const ep_log_mel *plan, const ep_value *y, number *z) {
  const int32_t apart = plan->n_fft / 8;
  const uint16_t *order = plan->order, *const end = order + plan->n_fft / 16;
  for (; order < end; z += 8) {
    const int32_t at = 2 * *order++;
    const ep_factor *rise = plan->window + at, *fall = plan->window + 4 * apart - 1 - plan->odd - at;
    const ep_value *v = y + at;
    number a0, a1, a2, a3, b0, b1, b2, b3;
    {
      const number x0 = windowed(v, rise, 1), x2 = windowed(v + 2 * apart, rise + 2 * apart, 1);
      const number x4 = windowed(v + 4 * apart, fall, -1), x6 = windowed(v + 6 * apart, fall - 2 * apart, -1);
      FOUR(a0, a1, a2, a3, x0, x2, x4, x6);
    }
    v += apart, rise += apart, fall -= apart;
    {
      const number x1 = windowed(v, rise, 1), x3 = windowed(v + 2 * apart, rise + 2 * apart, 1);
      const number x5 = windowed(v + 4 * apart, fall, -1), x7 = windowed(v + 6 * apart, fall - 2 * apart, -1);
      FOUR(b0, b1, b2, b3, x1, x3, x5, x7);
    }
    join(z, 1, a0, a1, a2, a3, b0, b1, b2, b3);
  }
}

static const factor *radix_4(number *z, const number *const end, int32_t span, const factor *w) {
  for (number *const stop = z + span; z < stop; ++z, w += 3) {
    const factor w1 = w[0], w2 = w[1], w3 = w[2];
    for (number *p = z; p < end; p += 4 * span) {
      const number x0 = half(p[0]), x1 = times(p[span], w1), x2 = times(p[2 * span], w2), x3 = times(p[3 * span], w3);
      FOUR(p[0], p[span], p[2 * span], p[3 * span], x0, x1, x2, x3);
    }
  }
  return w;
}

static const factor *radix_8(number *z, const number *const end, int32_t span, const factor *w) {
  for (number *const stop = z + span; z < stop; ++z, w += 7) {
    for (number *p = z; p < end; p += 8 * span) {
      const number *const q = p + 4 * span;
      number a0, a1, a2, a3, b0, b1, b2, b3;
      {
        const number x0 = half(p[0]), x2 = times(p[2 * span], w[1]), x4 = times(q[0], w[3]), x6 = times(q[2 * span], w[5]);
        FOUR(a0, a1, a2, a3, x0, x2, x4, x6);
      }
      {
        const number x1 = times(p[span], w[0]), x3 = times(p[3 * span], w[2]), x5 = times(q[span], w[4]),
                     x7 = times(q[3 * span], w[6]);
        FOUR(b0, b1, b2, b3, x1, x3, x5, x7);
      }
      join(p, span, a0, a1, a2, a3, b0, b1, b2, b3);
    }
  }
  return w;
}

#if EP_FIXED_POINT

/* A power takes the place of its number. */
typedef uint64_t power;
static inline power power_at(const number *place) {
  power found;
  memcpy(&found, place, sizeof found);
  return found;
}
static inline void set_power(number *place, number a, int32_t shift) {
  const power square = (uint64_t)((int64_t)a.re * a.re) + (uint64_t)((int64_t)a.im * a.im);
  const power found = (square + ((uint64_t)1 << shift >> 1)) >> shift;
  memcpy(place, &found, sizeof found);
}
typedef uint64_t band;
#define WEIGHTED(w, p, sum) ((sum) + (p) * (uint64_t)(uint16_t)(w))
#define OFFSET(plan, i) ((plan)->log_offset << (plan)->doublings[i])
#define EXTRA(plan, i) (plan)->doublings[i]

/* round(2^16 log2(1 + i / 32)) */
static const int32_t logarithms[33] = {0,     2909,  5732,  8473,  11136, 13727, 16248, 18704, 21098, 23433, 25711,
                                       27936, 30109, 32234, 34312, 36346, 38336, 40286, 42196, 44068, 45904, 47705,
                                       49472, 51207, 52911, 54584, 56229, 57845, 59434, 60997, 62534, 64047, 65536};

static inline int32_t leading_zeros(uint32_t x) {
#if defined(__GNUC__)
  return __builtin_clz(x);
#else
  int32_t count = 0;
  for (; !(x & 0x80000000u); x <<= 1) ++count;
  return count;
#endif
}

static inline ep_feature feature_of(line scale, band sum, int32_t extra) {
  const uint32_t high = (uint32_t)(sum >> 32);
  const int32_t zeros = high ? leading_zeros(high) : 32 + leading_zeros((uint32_t)sum | 1u);
  const uint32_t mantissa = (uint32_t)(sum << zeros >> 32);
  const int32_t i = (int32_t)(mantissa >> 26) & 31, fraction = (int32_t)(mantissa >> 11) & 0x7fff;
  const int32_t step = (logarithms[i + 1] - logarithms[i]) * fraction;
  const int32_t log2 = (63 - zeros - extra) * 65536 + logarithms[i] + (step >> 15);
  return (int32_t)(((int64_t)log2 * scale.slope) >> 24) + scale.intercept;
}

#else

typedef float power;
static inline power power_at(const number *place) { return place->re; }
static inline void set_power(number *place, number a, int32_t shift) {
  (void)shift;
  place->re = FMA(a.im, a.im, a.re * a.re);
}
typedef float band;
#define WEIGHTED(w, p, sum) FMA(w, p, sum)
#define OFFSET(plan, i) ((plan)->log_offset)
#define EXTRA(plan, i) 0

/* ln x = 2 atanh((m - 1) / (m + 1)) + exponent ln 2, for m in [sqrt(1/2), sqrt(2)); to 2e-6. */
static inline ep_feature feature_of(line scale, band sum, int32_t extra) {
  (void)extra;
  uint32_t bits;
  memcpy(&bits, &sum, 4);
  const int32_t exponent = (int32_t)(bits - 0x3f3504f3u) >> 23;
  bits -= (uint32_t)exponent << 23;
  float m;
  memcpy(&m, &bits, 4);
  const float s = (m - 1.0f) / (m + 1.0f), t = s * s;
  const float series = FMA(FMA(2.0f / 5, t, 2.0f / 3), t, 2.0f);
  return FMA(FMA((float)exponent, 0.69314718f, s * series), scale.slope, scale.intercept);
}

#endif

/* From the transform of (even) + i (odd values) to powers of the real transform, for bins 0 < k < n_fft / 2. The window is
 * halved, so that no division is left. */
static void powers(const ep_log_mel *plan, number *z) {
  const int32_t middle = plan->n_fft / 4;
#if EP_FIXED_POINT
  const int32_t shift = plan->power_shift;
#else
  const int32_t shift = 0;
#endif
  const ep_factor *cosine = plan->quarter + 1, *sine = plan->quarter + middle - 1;
  number *low = z + 1, *high = z + plan->n_fft / 2 - 1;
  for (; low < high; ++low, --high) {
    const factor w = {*cosine++, *sine--};
    const number even = half((number){low->re + high->re, low->im - high->im});
    const number odd = {low->im + high->im, high->re - low->re};
    /* odd * (cos - i sin) */
    const number turned = {summed(odd.re, w.re, odd.im, w.im), summed(-odd.re, w.im, odd.im, w.re)};
    set_power(low, plus(even, turned), shift);
    set_power(high, minus(even, turned), shift);
  }
  /* Twice the number there; halved like the others in fixed point. */
  set_power(low, (number){HALF(2 * low->re), HALF(2 * low->im)}, shift);
}

void ep_log_mel_frame(const ep_log_mel *plan, const ep_value *history, ep_value *scratch, ep_feature *features) {
  number *const z = (number *)(void *)scratch;
  const number *const end = z + plan->n_fft / 2;
  const factor *twiddles = (const factor *)(const void *)plan->twiddles;
  first_pass(plan, history, z);
  int32_t span = 8;
  for (uint32_t rest = plan->passes; rest > 1; rest >>= 1) {
    twiddles = rest & 1 ? radix_8(z, end, span, twiddles) : radix_4(z, end, span, twiddles);
    span *= rest & 1 ? 8 : 4;
  }
  powers(plan, z);

  const number *at = z + plan->first_bin;
  const ep_factor *weight = plan->weights;
  const line scale = {plan->slope, plan->intercept}; /* a copy, which features cannot overwrite */
  band sum = 0, begun = OFFSET(plan, 0);
  for (int32_t i = 0; i <= plan->n_mels; ++i) {
    int32_t left = plan->bins[i];
    for (; left > 1; left -= 2, at += 2, weight += 4) {
      const power p = power_at(at), q = power_at(at + 1);
      sum = WEIGHTED(weight[0], p, sum);
      begun = WEIGHTED(weight[1], p, begun);
      sum = WEIGHTED(weight[2], q, sum);
      begun = WEIGHTED(weight[3], q, begun);
    }
    if (left) {
      const power p = power_at(at++);
      sum = WEIGHTED(weight[0], p, sum);
      begun = WEIGHTED(weight[1], p, begun);
      weight += 2;
    }
    if (i > 0) *features++ = feature_of(scale, sum, EXTRA(plan, i - 1));
    sum = begun;
    begun = OFFSET(plan, i + 1);
  }
}
