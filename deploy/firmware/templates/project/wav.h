/* SPDX-License-Identifier: Apache-2.0 */
/* Samples of a WAV file in memory. */
#ifndef WAV_H_
#define WAV_H_

#include <stdint.h>
#include <string.h>

static inline uint32_t wav_number(const uint8_t *at, int32_t bytes) {
  uint32_t value = 0;
  for (int32_t i = bytes - 1; i >= 0; --i) value = value << 8 | at[i];
  return value;
}

/* How many samples of int16 there are and where, on little-endian machines; -1 where the file is not mono of 16 bits at this
 * rate, or is damaged. */
static inline int32_t wav_samples(const int16_t *file, int32_t size, uint32_t rate_hz, const int16_t **samples) {
  const uint8_t *const bytes = (const uint8_t *)file;
  int fits = 0;
  if (size < 12 || memcmp(bytes, "RIFF", 4) != 0 || memcmp(bytes + 8, "WAVE", 4) != 0) return -1;
  for (int32_t at = 12; at + 8 <= size;) {
    const uint8_t *const chunk = bytes + at;
    const uint32_t length = wav_number(chunk + 4, 4);
    if (length > (uint32_t)(size - at - 8)) return -1;
    if (memcmp(chunk, "fmt ", 4) == 0 && length >= 16)
      fits = wav_number(chunk + 8, 2) == 1 && wav_number(chunk + 10, 2) == 1 && wav_number(chunk + 12, 4) == rate_hz &&
             wav_number(chunk + 22, 2) == 16;
    if (memcmp(chunk, "data", 4) == 0) {
      *samples = file + (at + 8) / 2;
      return fits ? (int32_t)(length / 2) : -1;
    }
    at += 8 + (int32_t)(length + length % 2);
  }
  return -1;
}

#endif
