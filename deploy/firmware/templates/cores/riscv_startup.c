/* SPDX-License-Identifier: Apache-2.0 */
/* Start of a 32-bit RISC-V program under emulation: memory, traps, painted stack. */
#include <stdint.h>

#define EP_PAINT 0xa5a5a5a5u

extern uint32_t ep_data_load, ep_data_start, ep_data_end, ep_bss_start, ep_bss_end, ep_stack_top;
int main(void);
void ep_exit(int32_t code);

__attribute__((aligned(4), used)) static void fault(void) { ep_exit(99); }

__attribute__((noreturn, used)) static void start(void) {
  const uint32_t *from = &ep_data_load;
  for (uint32_t *to = &ep_data_start; to < &ep_data_end;) *to++ = *from++;
  for (uint32_t *to = &ep_bss_start; to < &ep_bss_end;) *to++ = 0;
  uint32_t *here;
  __asm__ volatile("mv %0, sp" : "=r"(here));
  for (uint32_t *to = &ep_bss_end; to < here - 8;) *to++ = EP_PAINT;
  ep_exit(main());
  for (;;) {
  }
}

__attribute__((section(".vectors"), naked, used)) void ep_reset(void) {
  __asm__ volatile(
      "la sp, ep_stack_top\n"
      "la t0, fault\n"
      ".option push\n"
      ".option arch, +zicsr\n"
      "csrw mtvec, t0\n"
      ".option pop\n"
      "j start\n");
}

/* Semihosting: an operation and what it is told. The three instructions are uncompressed and on one page. */
__attribute__((noinline)) int32_t ep_call_host(int32_t operation, const void *argument) {
  register int32_t a0 __asm__("a0") = operation;
  register const void *a1 __asm__("a1") = argument;
  __asm__ volatile(
      ".balign 16\n"
      ".option push\n"
      ".option norvc\n"
      "slli zero, zero, 0x1f\n"
      "ebreak\n"
      "srai zero, zero, 7\n"
      ".option pop\n"
      : "+r"(a0)
      : "r"(a1)
      : "memory");
  return a0;
}

/* Bytes of the stack that were ever written to. */
int32_t ep_stack_used(void) {
  const uint32_t *at = &ep_bss_end;
  while (at < &ep_stack_top && *at == EP_PAINT) ++at;
  return (int32_t)((const char *)&ep_stack_top - (const char *)at);
}
