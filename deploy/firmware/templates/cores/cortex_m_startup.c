/* SPDX-License-Identifier: Apache-2.0 */
/* Start of a Cortex-M program under emulation: vectors, memory, floating-point unit, painted stack. */
#include <stdint.h>

#define EP_PAINT 0xa5a5a5a5u

extern uint32_t ep_data_load, ep_data_start, ep_data_end, ep_bss_start, ep_bss_end, ep_stack_top;
int main(void);
void ep_exit(int32_t code);

void ep_reset(void);
static void fault(void) { ep_exit(99); }

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &ep_stack_top, (const void *)ep_reset,
    (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault};

__attribute__((noreturn)) void ep_reset(void) {
#if defined(__ARM_FP)
  *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* CPACR: access to coprocessors 10 and 11 */
  __asm__ volatile("dsb\n isb");
#endif
  const uint32_t *from = &ep_data_load;
  for (uint32_t *to = &ep_data_start; to < &ep_data_end;) *to++ = *from++;
  for (uint32_t *to = &ep_bss_start; to < &ep_bss_end;) *to++ = 0;
  uint32_t *here;
  __asm__ volatile("mov %0, sp" : "=r"(here));
  for (uint32_t *to = &ep_bss_end; to < here - 8;) *to++ = EP_PAINT;
  ep_exit(main());
  for (;;) {
  }
}

/* Semihosting: an operation and what it is told. */
int32_t ep_call_host(int32_t operation, const void *argument) {
  register int32_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

/* Bytes of the stack that were ever written to. */
int32_t ep_stack_used(void) {
  const uint32_t *at = &ep_bss_end;
  while (at < &ep_stack_top && *at == EP_PAINT) ++at;
  return (int32_t)((const char *)&ep_stack_top - (const char *)at);
}
