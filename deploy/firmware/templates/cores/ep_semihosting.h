/* SPDX-License-Identifier: Apache-2.0 */
/* Files and the end of a program under an emulator, by semihosting. */
#ifndef EP_SEMIHOSTING_H_
#define EP_SEMIHOSTING_H_

#include <stdint.h>

int32_t ep_stack_used(void);
int32_t ep_call_host(int32_t operation, const void *argument);

void ep_exit(int32_t code) {
  const int32_t block[2] = {0x20026 /* application exit */, code};
  ep_call_host(0x20, block);
  for (;;) {
  }
}

static int32_t open_file(const char *name, int32_t length, int32_t mode) {
  const struct {
    const char *name;
    int32_t mode, length;
  } block = {name, mode, length};
  return ep_call_host(0x01, &block);
}

/* Reading and writing give the number of bytes that were not transferred. */
static int32_t transfer(int32_t operation, int32_t file, const void *data, int32_t length) {
  const struct {
    int32_t file;
    const void *data;
    int32_t length;
  } block = {file, data, length};
  return ep_call_host(operation, &block);
}

#endif
