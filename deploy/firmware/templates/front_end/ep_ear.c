/* SPDX-License-Identifier: Apache-2.0 */
/* From samples in pieces of any length to the frames of a network's input. */
#include <string.h>

#include "ep_log_mel.h"

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE inline
#endif

static inline int8_t saturated(int32_t x) {
#if defined(__ARM_FEATURE_SAT)
  __asm__("ssat %0, #8, %1" : "=r"(x) : "r"(x));
  return (int8_t)x;
#else
  return (int8_t)(x < -128 ? -128 : x > 127 ? 127 : x);
#endif
}

#if EP_FIXED_POINT
/* A shift of values is at most 14: what has 15 fractional bits more than a sample goes to the right. */
#define EMPHASIZED(plan, x, before) \
  ((int32_t)(((int64_t)(x) * 32768 - (int64_t)(plan)->pre_emphasis * (before)) >> (15 - (plan)->value_shift)))
static inline int32_t from_int16(int16_t x) { return x; }
static inline int32_t from_float(float x) {
  const float wide = x * 32768.0f;
  return wide >= 32767.0f ? 32767 : wide <= -32768.0f ? -32768 : (int32_t)(wide + (wide < 0.0f ? -0.5f : 0.5f));
}
static inline int32_t quantized(int32_t feature, int32_t to_int8, int32_t zero) {
  return (int32_t)(((int64_t)feature * to_int8 + (1 << 27)) >> 28) + zero;
}
#else
/* Values are 32768 times as large as samples; the window makes up for it. */
#define EMPHASIZED(plan, x, before) ((x) - (plan)->pre_emphasis * (before))
static inline float from_int16(int16_t x) { return (float)x; }
static inline float from_float(float x) { return x * 32768.0f; }
/* Rounded to the nearest, ties to even: the fraction falls off the end of a number between 2^23 and 2^24. */
static inline int32_t quantized(float feature, float to_int8, int32_t zero) {
  const float rounded = feature * to_int8 + (12582912.0f + (float)zero);
  int32_t bits;
  memcpy(&bits, &rounded, 4);
  return bits - 0x4b400000;
}
#endif

void ep_ear_start(ep_ear *ear, int32_t every) {
  ear->started = 0;
  ear->every = every > 0 ? every : 0;
}

/* Values that move together. */
#define BLOCK 8
typedef struct {
  ep_value values[BLOCK];
} block;

static void begin(const ep_log_mel *plan, ep_ear *ear) {
  ear->started = 1;
  ear->filled = plan->n_fft / 2;
  ear->dropped = 0;
  ear->left = plan->clip_samples;
  ear->wait = plan->frames;
  ear->column = 0;
}

static void take_frame(const ep_log_mel *plan, ep_ear *ear, ep_value *history, ep_value *scratch, int8_t *columns) {
  const int32_t n_fft = plan->n_fft, hop = plan->hop;
  if (ear->started == 1) { /* Nothing was before the start: it is mirrored. The window is 0 at its ends. */
    ear->started = 2;
    history[0] = 0;
    for (int32_t i = 1; i < n_fft / 2; ++i) history[i] = history[n_fft - i];
  }
  ep_feature *const features = (ep_feature *)(scratch + n_fft);
  ep_log_mel_frame(plan, history, scratch, features);
#if defined(EP_WATCH_FRAME)
  EP_WATCH_FRAME(features, plan->n_mels);
#endif
  const int32_t frames = plan->frames, zero = plan->zero; /* locals, since int8 may lie anywhere */
  const ep_step to_int8 = plan->to_int8;
  int8_t *place = columns + ear->column;
  for (const ep_feature *feature = features, *const end = features + plan->n_mels; feature < end; place += frames) {
    const int32_t step = quantized(*feature++, to_int8, zero);
    *place = saturated(step);
  }
  ear->column = ear->column + 1 == plan->frames ? 0 : ear->column + 1;
  --ear->wait;

  const int32_t kept = hop < n_fft ? n_fft - hop : 0;
  int32_t i = 0;
  for (; i + BLOCK <= kept; i += BLOCK) {
    const block moved = *(const block *)(history + i + hop);
    *(block *)(history + i) = moved;
#if defined(__GNUC__)
    __asm__ volatile("" ::: "memory"); /* or it becomes memmove, which small libraries do byte by byte */
#endif
  }
  for (; i < kept; ++i) history[i] = history[i + hop];
  ear->filled = kept;
  ear->dropped = hop < n_fft ? 0 : hop - n_fft;
}

/* The frames that reach over the end of a clip: it is mirrored. */
static void finish(const ep_log_mel *plan, ep_ear *ear, ep_value *history, ep_value *scratch, int8_t *columns) {
  for (int32_t last = ear->filled - 1; ear->wait > 0; last -= plan->hop) {
    for (int32_t i = last + 1; i < plan->n_fft; ++i) history[i] = history[2 * last - i];
    take_frame(plan, ear, history, scratch, columns);
  }
  ear->started = 0;
}

/* Samples after pre-emphasis; `real` says of which type they are. */
static ALWAYS_INLINE ep_value sample_at(const void *samples, int real, int32_t i) {
  return real ? from_float(((const float *)samples)[i]) : from_int16(((const int16_t *)samples)[i]);
}

static ALWAYS_INLINE void take_values(const ep_log_mel *plan, ep_ear *ear, ep_value *values, const void *samples, int real,
                                      int32_t first, int32_t count) {
  ep_value before = ear->before;
  for (int32_t i = first; i < first + count; ++i) {
    const ep_value now = sample_at(samples, real, i);
    *values++ = EMPHASIZED(plan, now, before);
    before = now;
  }
  ear->before = before;
}

/* A run of samples that are treated alike: until a frame, a clip or what is to be dropped ends. */
static int32_t run_length(const ep_log_mel *plan, const ep_ear *ear, int32_t count) {
  const int32_t room = ear->dropped > 0 ? ear->dropped : plan->n_fft - ear->filled;
  if (ear->wait > 0 && count > room) count = room;
  return ear->every == 0 && count > ear->left ? ear->left : count;
}

static ALWAYS_INLINE int32_t hear(const ep_log_mel *plan, ep_ear *ear, ep_value *history, ep_value *scratch,
                                  int8_t *columns, const void *samples, int real, int32_t count, int32_t *due) {
  int32_t taken = 0;
  *due = 0;
  while (taken < count && !*due) {
    const int32_t starts = ear->started == 0;
    if (starts) begin(plan, ear);
    const int32_t run = starts ? 1 : run_length(plan, ear, count - taken);
    if (starts || ear->wait == 0 || ear->dropped > 0) { /* Only the last one counts, as the one before the next. */
      ear->before = sample_at(samples, real, taken + run - 1);
      if (!starts && ear->wait > 0) ear->dropped -= run;
    } else {
      take_values(plan, ear, history + ear->filled, samples, real, taken, run);
      ear->filled += run;
      if (ear->filled == plan->n_fft) take_frame(plan, ear, history, scratch, columns);
    }
    taken += run;
    if (ear->every > 0) {
      if (ear->wait > 0) continue;
      ear->wait = ear->every;
      *due = 1;
    } else if ((ear->left -= run) == 0) {
      finish(plan, ear, history, scratch, columns);
      *due = 1;
    }
  }
  return taken;
}

int32_t ep_ear_hear(const ep_log_mel *plan, ep_ear *ear, ep_value *history, ep_value *scratch, int8_t *columns,
                    const int16_t *samples, int32_t count, int32_t *due) {
  return hear(plan, ear, history, scratch, columns, samples, 0, count, due);
}

int32_t ep_ear_hear_float(const ep_log_mel *plan, ep_ear *ear, ep_value *history, ep_value *scratch, int8_t *columns,
                          const float *samples, int32_t count, int32_t *due) {
  return hear(plan, ear, history, scratch, columns, samples, 1, count, due);
}

void ep_ear_input(const ep_log_mel *plan, const ep_ear *ear, const int8_t *columns, int8_t *input) {
  const int32_t frames = plan->frames, oldest = ear->column;
  for (int32_t i = 0; i < plan->n_mels; ++i, columns += frames) {
    for (int32_t j = oldest; j < frames; ++j) *input++ = columns[j];
    for (int32_t j = 0; j < oldest; ++j) *input++ = columns[j];
  }
}
