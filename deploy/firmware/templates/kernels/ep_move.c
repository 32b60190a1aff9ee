/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels that only move bytes. */
#include <string.h>

#include "ep_kernels.h"

void ep_copy(const ep_move *p, const int8_t *in, int8_t *out) {
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

void ep_fill(int8_t value, int32_t count, int8_t *out) { memset(out, value, (size_t)count); }

void ep_resize_nearest(const ep_resize *p, const int8_t *in, int8_t *out) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->channels)
    for (int32_t y = 0; y < p->out_h; ++y)
      for (int32_t x = 0; x < p->out_w; ++x, out += p->channels)
        memcpy(out, in + (p->rows[y] * p->in_w + p->columns[x]) * p->channels, (size_t)p->channels);
}
