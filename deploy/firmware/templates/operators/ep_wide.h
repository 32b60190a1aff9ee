/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of 64 bits. */
#ifndef EP_WIDE_H_
#define EP_WIDE_H_

#include "ep_arithmetic.h"

/* x * multiplier / 2^15 * 2^shift, rounded once, ties towards plus infinity; shift from -31 to 7. */
static inline int32_t ep_rescale_wide(int64_t x, int32_t multiplier, int32_t shift) {
  return (int32_t)((x * multiplier + ((int64_t)1 << (14 - shift))) >> (15 - shift));
}

#endif
