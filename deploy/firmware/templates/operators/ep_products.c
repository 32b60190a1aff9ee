/* SPDX-License-Identifier: Apache-2.0 */
/* Transposed convolutions, and products of matrices that are both computed. */
#include "ep_operators.h"
#include "ep_wide.h"

/* The output position y takes input position (y + pad - k) / stride through tap k, where that is whole and in the image. */
static int32_t source_of(int32_t position, int32_t stride, int32_t size) {
  return position >= 0 && position % stride == 0 && position / stride < size ? position / stride : -1;
}

void ep_transpose_conv(const ep_transposed *p, const int8_t *in, int8_t *out) {
  const int32_t kernel = p->kernel_h * p->kernel_w * p->in_c;
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c)
    for (int32_t y = 0; y < p->out_h; ++y)
      for (int32_t x = 0; x < p->out_w; ++x)
        for (int32_t c = 0; c < p->out_c; ++c) {
          int32_t sum = p->bias[c];
          for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
            const int32_t in_y = source_of(y + p->pad_top - ky, p->stride_h, p->in_h);
            for (int32_t kx = 0; in_y >= 0 && kx < p->kernel_w; ++kx) {
              const int32_t in_x = source_of(x + p->pad_left - kx, p->stride_w, p->in_w);
              if (in_x < 0) continue;
              const int8_t *value = in + (in_y * p->in_w + in_x) * p->in_c;
              const int8_t *weight = p->weights + c * kernel + (ky * p->kernel_w + kx) * p->in_c;
              for (int32_t i = 0; i < p->in_c; ++i) sum += (value[i] - p->in_zero) * weight[i];
            }
          }
          sum = ep_rescale(sum, p->multipliers[c], p->shifts[c]) + p->out_zero;
          *out++ = (int8_t)ep_clamp(sum, p->out_min, p->out_max);
        }
}

void ep_transpose_conv_16(const ep_transposed *p, const int16_t *in, int16_t *out) {
  const int32_t kernel = p->kernel_h * p->kernel_w * p->in_c;
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c)
    for (int32_t y = 0; y < p->out_h; ++y)
      for (int32_t x = 0; x < p->out_w; ++x)
        for (int32_t c = 0; c < p->out_c; ++c) {
          int64_t sum = p->wide_bias[c];
          for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
            const int32_t in_y = source_of(y + p->pad_top - ky, p->stride_h, p->in_h);
            for (int32_t kx = 0; in_y >= 0 && kx < p->kernel_w; ++kx) {
              const int32_t in_x = source_of(x + p->pad_left - kx, p->stride_w, p->in_w);
              if (in_x < 0) continue;
              const int16_t *value = in + (in_y * p->in_w + in_x) * p->in_c;
              const int8_t *weight = p->weights + c * kernel + (ky * p->kernel_w + kx) * p->in_c;
              for (int32_t i = 0; i < p->in_c; ++i) sum += value[i] * weight[i];
            }
          }
          *out++ = (int16_t)ep_clamp(ep_rescale_wide(sum, p->multipliers[c], p->shifts[c]), p->out_min, p->out_max);
        }
}

void ep_batch_matmul(const ep_matmul *p, const int8_t *a, const int8_t *b, int8_t *out) {
  for (int32_t i = 0; i < p->batch[0]; ++i)
    for (int32_t j = 0; j < p->batch[1]; ++j)
      for (int32_t k = 0; k < p->batch[2]; ++k) {
        const int8_t *first = a + i * p->a_stride[0] + j * p->a_stride[1] + k * p->a_stride[2];
        const int8_t *second = b + i * p->b_stride[0] + j * p->b_stride[1] + k * p->b_stride[2];
        for (int32_t row = 0; row < p->rows; ++row)
          for (int32_t column = 0; column < p->columns; ++column) {
            const int8_t *x = first + row * p->a_row, *y = second + column * p->b_column;
            int32_t sum = 0;
            for (int32_t n = p->depth; n > 0; --n, x += p->a_depth, y += p->b_depth)
              sum += (*x - p->a_zero) * (*y - p->b_zero);
            *out++ = (int8_t)ep_clamp(ep_rescale(sum, p->multiplier, p->shift) + p->out_zero, -128, 127);
          }
      }
}

void ep_batch_matmul_16(const ep_matmul *p, const int16_t *a, const int16_t *b, int16_t *out) {
  for (int32_t i = 0; i < p->batch[0]; ++i)
    for (int32_t j = 0; j < p->batch[1]; ++j)
      for (int32_t k = 0; k < p->batch[2]; ++k) {
        const int16_t *first = a + i * p->a_stride[0] + j * p->a_stride[1] + k * p->a_stride[2];
        const int16_t *second = b + i * p->b_stride[0] + j * p->b_stride[1] + k * p->b_stride[2];
        for (int32_t row = 0; row < p->rows; ++row)
          for (int32_t column = 0; column < p->columns; ++column) {
            const int16_t *x = first + row * p->a_row, *y = second + column * p->b_column;
            int64_t sum = 0;
            for (int32_t n = p->depth; n > 0; --n, x += p->a_depth, y += p->b_depth) sum += *x * *y;
            *out++ = (int16_t)ep_clamp(ep_rescale_wide(sum, p->multiplier, p->shift), -32768, 32767);
          }
      }
}
