/* SPDX-License-Identifier: Apache-2.0 */
/* Samples go in, the log-mel input of a network comes out, hop by hop: the definition that the network was trained on.
 *
 * Pre-emphasis y[t] = x[t + 1] - a x[t]; frames of n_fft values, hop apart, the first of them centred on y[0], ends mirrored;
 * symmetric Hann window; power of the Fourier transform; triangular bands; ln(band + offset), shifted and scaled.
 *
 * EP_FIXED_POINT = 0 computes in float, EP_FIXED_POINT = 1 in integers of 32 and 64 bits, for cores without a
 * floating-point unit: its features are within 0.01 of the float ones (they span about 3, and a step of int8 is about 0.01).
 */
#ifndef EP_LOG_MEL_H_
#define EP_LOG_MEL_H_

#include <stdint.h>

#ifndef EP_FIXED_POINT
#if (defined(__arm__) && !defined(__ARM_FP)) || (defined(__riscv) && !defined(__riscv_flen))
#define EP_FIXED_POINT 1
#else
#define EP_FIXED_POINT 0
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* `ep_value`: samples after pre-emphasis and values of the transform. `ep_factor`: windows, twiddles, weights.
 * `ep_feature`: in fixed point with 16 fractional bits. */
#if EP_FIXED_POINT
typedef int32_t ep_value;
typedef int16_t ep_factor;
typedef int32_t ep_feature;
typedef int32_t ep_step;
#else
typedef float ep_value;
typedef float ep_factor;
typedef float ep_feature;
typedef float ep_step;
#endif

/* A definition, in flash. The transform is one of n_fft / 2 complex values: a pass of radix 8, then passes of radix 4 and 8,
 * decimated in time. */
typedef struct {
  uint16_t n_fft, hop, n_mels, frames;
  uint16_t first_bin;        /* of the bands */
  uint16_t odd;              /* 1 where the length of the window is, and its middle half a value earlier; else 0 */
  uint16_t passes;           /* after the first: a bit for each, from the lowest, 1 for radix 8; above them a bit of 1 */
  int32_t clip_samples;
  const uint16_t *order;     /* [n_fft / 16]: the first of the eight inputs of each butterfly of the first pass */
  const ep_factor *window;   /* [n_fft / 2]: its rising half, halved; in float for values 32768 times as large, in fixed point with 16 fractional bits */
  const ep_factor *twiddles; /* for each pass and each k: exp(-2 pi i j k / (radix * span)), j = 1 ... radix - 1 */
  const ep_factor *quarter;  /* [n_fft / 4 + 1]: cos(2 pi k / n_fft) */
  const ep_factor *weights;  /* of each bin: in the band that ends there, in the one that begins */
  const uint16_t *bins;      /* [n_mels + 1]: bins from one centre of a band to the next */
#if EP_FIXED_POINT
  const uint8_t *doublings;  /* [n_mels + 2]: of all weights of a band, so that its largest one has all its bits */
  int32_t pre_emphasis;      /* 15 fractional bits */
  int8_t value_shift;        /* fractional bits of values beyond the 15 of samples; may be negative */
  int8_t power_shift;        /* of powers, to the right, before they are weighted */
  uint64_t log_offset;       /* in the units of weighted powers */
  ep_step slope, intercept;  /* feature = slope * log2(weighted power) + intercept; 24 and 16 fractional bits */
  ep_step to_int8;           /* int8 steps for a feature of 1, 12 fractional bits */
#else
  float pre_emphasis, log_offset;
  ep_step slope, intercept; /* feature = slope * ln(power + log_offset) + intercept */
  ep_step to_int8;          /* int8 steps for a feature of 1 */
#endif
  int8_t zero; /* the int8 of a feature of 0 */
} ep_log_mel;

/* What is remembered between calls, in RAM; all zeros is the start of a clip. */
typedef struct {
  int32_t started; /* 0: nothing was heard yet; 1: no frame; 2: a frame */
  int32_t filled;  /* values of the history that are there */
  int32_t dropped; /* values still to be dropped before the next frame, where the hop is longer than a frame */
  int32_t left;    /* clips: samples that are missing */
  int32_t wait;    /* frames until the next decision */
  int32_t column;  /* of the next frame, and the oldest one where all are there */
  int32_t every;   /* 0: clips, one after the other; else frames from one decision to the next */
  ep_value before; /* the sample before */
} ep_ear;

/* One frame. history: [n_fft] values; scratch: [n_fft], aligned to 8 bytes; features: [n_mels]. */
void ep_log_mel_frame(const ep_log_mel *plan, const ep_value *history, ep_value *scratch, ep_feature *features);

/* Start anew; see `every`. */
void ep_ear_start(ep_ear *ear, int32_t every);

/* Take samples until a decision is due or none is left.
 *
 * history: [n_fft], kept between calls; scratch: [n_fft + n_mels], aligned to 8 bytes, only used here; columns:
 * [n_mels][frames], a ring of frames, kept between calls. Returns how many samples were taken; `due` says whether a decision
 * is. Samples in float are in [-1, 1]; int16 are divided by 32768. */
int32_t ep_ear_hear(const ep_log_mel *plan, ep_ear *ear, ep_value *history, ep_value *scratch, int8_t *columns,
                    const int16_t *samples, int32_t count, int32_t *due);
int32_t ep_ear_hear_float(const ep_log_mel *plan, ep_ear *ear, ep_value *history, ep_value *scratch, int8_t *columns,
                          const float *samples, int32_t count, int32_t *due);

/* For tests and for looking on: -DEP_WATCH_FRAME=name calls this function of yours with the features of every frame. */
#if defined(EP_WATCH_FRAME)
void EP_WATCH_FRAME(const ep_feature *features, int32_t count);
#endif

/* The ring, oldest column first, as the network's input. */
void ep_ear_input(const ep_log_mel *plan, const ep_ear *ear, const int8_t *columns, int8_t *input);

#ifdef __cplusplus
}
#endif

#endif
