/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels for the vector extension of Cortex-M55 and M85 share. */
#ifndef EP_VECTORS_H_
#define EP_VECTORS_H_

#include "ep_arithmetic.h"

#if EP_MVE
#include <arm_mve.h>

static inline int8_t *ep_copy_vectors(int8_t *to, const int8_t *from, int32_t n) {
  int8_t *end = to + n;
  for (int32_t left = n; left > 0; left -= 16, to += 16, from += 16) {
    const mve_pred16_t some = vctp8q((uint32_t)left);
    vstrbq_p_s8(to, vldrbq_z_s8(from, some), some);
  }
  return end;
}

static inline int8_t *ep_fill_vectors(int8_t *to, int32_t value, int32_t n) {
  int8_t *end = to + n;
  const int8x16_t same = vdupq_n_s8((int8_t)value);
  for (int32_t left = n; left > 0; left -= 16, to += 16) vstrbq_p_s8(to, same, vctp8q((uint32_t)left));
  return end;
}

/* What turns the sums of four channels into int8. */
typedef struct {
  int32x4_t multiplier, left; /* the shift to the left */
} ep_four_stages;

static inline ep_four_stages ep_stages_of(const ep_conv *p, int32_t c, mve_pred16_t some) {
  ep_four_stages four;
  if (p->paired) {
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), 8);
    four.multiplier = vreinterpretq_s32_u32(vldrwq_gather_offset_z_u32(p->multipliers + 2 * c, places, some));
    four.left = vnegq_s32(vreinterpretq_s32_u32(vldrwq_gather_offset_z_u32(p->multipliers + 2 * c + 1, places, some)));
  } else {
    const uint32x4_t word = vldrwq_z_u32(p->multipliers + c, some);
    four.multiplier = vreinterpretq_s32_u32(vorrq_u32(vandq_u32(word, vdupq_n_u32(0x3fffffffu)), vdupq_n_u32(0x40000000u)));
    four.left = vsubq_s32(vdupq_n_s32(p->largest_shift), vreinterpretq_s32_u32(vshrq_n_u32(word, 30)));
  }
  return four;
}

static inline int32x4_t ep_staged_four(const ep_conv *p, const ep_four_stages *four, int32x4_t sum) {
  int32x4_t value = vqrdmulhq_s32(sum, four->multiplier);
  value = vaddq_s32(value, vshrq_n_s32(value, 31)); /* ties away from zero */
  value = vaddq_n_s32(vrshlq_s32(value, four->left), p->out_zero);
  return vminq_s32(vmaxq_s32(value, vdupq_n_s32(p->out_min)), vdupq_n_s32(p->out_max));
}

#endif
#endif
