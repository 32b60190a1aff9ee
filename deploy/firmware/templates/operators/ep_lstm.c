/* SPDX-License-Identifier: Apache-2.0 */
/* Long short-term memory: gates of int16 with 12 fractional bits before their functions and 15 behind them. */
#include <string.h>

#include "ep_operators.h"
#include "ep_wide.h"

static int16_t saturated(int32_t x) { return (int16_t)ep_clamp(x, -32768, 32767); }

static int16_t product(int32_t a, int32_t b, int32_t multiplier, int32_t shift) {
  return saturated(ep_rescale(a * b, multiplier, shift));
}

/* What both types share: functions of the gates, cell, and the output, which `written` puts into the hidden state. */
#define EP_LSTM(name, layer_type, type, sum_type, rescale, low, high)                                              \
  static void name##_gate(const layer_type *p, int32_t gate, const type *in, const type *hidden, int16_t *out) {   \
    const int8_t *a = p->input_weights + gate * p->size * p->inputs;                                               \
    const int8_t *b = p->hidden_weights + gate * p->size * p->size;                                                \
    const int32_t *fa = p->input_factor + 2 * gate, *fb = p->hidden_factor + 2 * gate;                             \
    for (int32_t i = 0; i < p->size; ++i) {                                                                        \
      sum_type first = p->input_bias[gate * p->size + i], second = p->hidden_bias[gate * p->size + i];             \
      for (int32_t j = 0; j < p->inputs; ++j) first += in[j] * *a++;                                               \
      for (int32_t j = 0; j < p->size; ++j) second += hidden[j] * *b++;                                            \
      out[i] = saturated(saturated(rescale(first, fa[0], fa[1])) + saturated(rescale(second, fb[0], fb[1])));      \
    }                                                                                                              \
    if (gate == 2)                                                                                                 \
      ep_tanh_16(p->table, 3, 0, p->size, out, out);                                                               \
    else                                                                                                           \
      ep_logistic_16(p->table, 3, 0, p->size, out, out);                                                           \
  }                                                                                                                \
  static void name##_step(const layer_type *p, const type *in, type *hidden, int16_t *cell, int16_t *work) {       \
    int16_t *forget = work, *update = work + p->size, *value = work + 2 * p->size, *open = work + 3 * p->size;     \
    name##_gate(p, 1, in, hidden, forget);                                                                         \
    name##_gate(p, 0, in, hidden, update);                                                                         \
    name##_gate(p, 2, in, hidden, value);                                                                          \
    name##_gate(p, 3, in, hidden, open);                                                                           \
    for (int32_t i = 0; i < p->size; ++i) {                                                                        \
      const int32_t kept = product(forget[i], cell[i], p->forget, p->forget_shift);                                \
      cell[i] = saturated(kept + product(update[i], value[i], p->update, p->update_shift));                        \
      if (p->clip > 0) cell[i] = (int16_t)ep_clamp(cell[i], -p->clip, p->clip);                                    \
    }                                                                                                              \
    ep_tanh_16(p->table, p->tanh_multiplier, p->tanh_shift, p->size, cell, value);                                 \
    for (int32_t i = 0; i < p->size; ++i) {                                                                        \
      const int32_t out = ep_rescale(value[i] * open[i], p->output, p->output_shift) + p->hidden_zero;             \
      hidden[i] = (type)ep_clamp(out, low, high);                                                                  \
    }                                                                                                              \
  }                                                                                                                \
  void name(const layer_type *p, const type *in, type *hidden, int16_t *cell, type *out, void *work) {             \
    const int32_t step = p->time_major ? p->batches : 1, batch = p->time_major ? 1 : p->steps;                     \
    for (int32_t i = 0; i < p->batches; ++i)                                                                       \
      for (int32_t t = 0; t < p->steps; ++t) {                                                                     \
        const int32_t at = i * batch + t * step;                                                                   \
        name##_step(p, in + at * p->inputs, hidden + i * p->size, cell + i * p->size, work);                       \
        memcpy(out + at * p->size, hidden + i * p->size, (size_t)p->size * sizeof *out);                           \
      }                                                                                                            \
  }

EP_LSTM(ep_lstm, ep_lstm_narrow, int8_t, int32_t, ep_rescale, -128, 127)
EP_LSTM(ep_lstm_16, ep_lstm_wide, int16_t, int64_t, ep_rescale_wide, -32768, 32767)
