/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels that only move bytes. */
#include <string.h>

#include "ep_kernels.h"
#include "ep_operators.h"

void ep_copy(const ep_move *p, const void *source, void *target) {
  const int8_t *in = source;
  int8_t *out = target;
  for (int32_t i = 0; i < p->size[0]; ++i)
    for (int32_t j = 0; j < p->size[1]; ++j)
      for (int32_t k = 0; k < p->size[2]; ++k)
        for (int32_t l = 0; l < p->size[3]; ++l) {
          int32_t from = p->from_start + i * p->from[0] + j * p->from[1] + k * p->from[2] + l * p->from[3];
          int32_t to = p->to_start + i * p->to[0] + j * p->to[1] + k * p->to[2] + l * p->to[3];
          if (p->from[4] == 1 && p->to[4] == 1) {
            memcpy(out + to, in + from, (size_t)p->size[4]);
            continue;
          }
          for (int32_t m = 0; m < p->size[4]; ++m, from += p->from[4], to += p->to[4]) out[to] = in[from];
        }
}

void ep_fill(int8_t value, int32_t count, void *out) { memset(out, value, (size_t)count); }

void ep_resize_nearest(const ep_resize *p, const void *in, void *out) {
  const int8_t *image = in;
  int8_t *to = out;
  for (int32_t batch = 0; batch < p->batches; ++batch, image += p->in_h * p->in_w * p->pixel_bytes)
    for (int32_t y = 0; y < p->out_h; ++y)
      for (int32_t x = 0; x < p->out_w; ++x, to += p->pixel_bytes)
        memcpy(to, image + (p->rows[y] * p->in_w + p->columns[x]) * p->pixel_bytes, (size_t)p->pixel_bytes);
}

void ep_fill_16(int16_t value, int32_t count, int16_t *out) {
  for (int32_t i = 0; i < count; ++i) out[i] = value;
}

void ep_fill_32(int32_t bits, int32_t count, void *out) {
  for (int32_t i = 0; i < count; ++i) memcpy((int8_t *)out + 4 * i, &bits, 4);
}

void ep_gather(const ep_gather_plan *p, const void *in, const int32_t *which, void *out) {
  const int8_t *from = in;
  int8_t *to = out;
  for (int32_t batch = 0; batch < p->batches; ++batch, which += p->count)
    for (int32_t outer = 0; outer < p->outer; ++outer, from += p->size * p->bytes)
      for (int32_t i = 0; i < p->count; ++i, to += p->bytes) {
        const int32_t row = which[i] < 0 ? 0 : which[i] >= p->size ? p->size - 1 : which[i]; /* nothing outside is read */
        memcpy(to, from + row * p->bytes, (size_t)p->bytes);
      }
}

/* FNV-1a. */
uint32_t ep_checksum(const void *data, int32_t bytes) {
  const int8_t *at = data;
  uint32_t sum = 2166136261u;
  for (int32_t i = 0; i < bytes; ++i) sum = (sum ^ (uint32_t)(uint8_t)at[i]) * 16777619u;
  return sum;
}
