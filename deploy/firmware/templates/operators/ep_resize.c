/* SPDX-License-Identifier: Apache-2.0 */
/* Interpolation between four neighbours, in steps of 1/1024. */
#include "ep_operators.h"

#define EP_ONE 1024

void ep_resize_bilinear(const ep_bilinear *p, const int8_t *in, int8_t *out) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->channels)
    for (const int16_t *row = p->rows; row != p->rows + 3 * p->out_h; row += 3)
      for (const int16_t *column = p->columns; column != p->columns + 3 * p->out_w; column += 3) {
        const int8_t *upper = in + row[0] * p->in_w * p->channels, *lower = in + row[1] * p->in_w * p->channels;
        const int32_t left = column[0] * p->channels, right = column[1] * p->channels;
        for (int32_t c = 0; c < p->channels; ++c) {
          const int32_t above = upper[left + c] * (EP_ONE - column[2]) + upper[right + c] * column[2];
          const int32_t below = lower[left + c] * (EP_ONE - column[2]) + lower[right + c] * column[2];
          const int32_t sum = above * (EP_ONE - row[2]) + below * row[2], half = EP_ONE * EP_ONE / 2;
          *out++ = (int8_t)((sum + (sum > 0 ? half : -half)) / (EP_ONE * EP_ONE));
        }
      }
}
