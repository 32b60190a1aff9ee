/* Fast kernels of ep_conv.c, chosen by EP_FAST. `scratch` is a place in the arena that only this layer uses. */
#ifndef EP_CONV_FAST_H_
#define EP_CONV_FAST_H_

#include "ep_kernels.h"

#if EP_FAST
/* scratch: 2 * kernel_h * kernel_w * group_c bytes; none for 1x1 with stride 1 and without groups. */
void ep_conv_fast(const ep_conv *layer, const int8_t *in, int8_t *out, int8_t *scratch);
/* scratch: 2 * kernel_h * kernel_w pointers, then out_c bytes. */
void ep_depthwise_fast(const ep_conv *layer, const int8_t *in, int8_t *out, void *scratch);
#endif

#endif
