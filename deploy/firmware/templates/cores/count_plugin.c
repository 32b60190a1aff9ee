/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin of QEMU's code generator that counts executed instructions, exactly, and notes the count at given addresses.
 *
 * Arguments: marks=HEX:HEX:..., out=FILE. Every time that a block starts at a mark, a line "address count" is written.
 * The declarations are those of qemu-plugin.h, which distributions do not ship.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct qemu_info_t qemu_info_t;
typedef void (*translated_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*executed_cb)(unsigned int vcpu, void *data);
typedef void (*exit_cb)(qemu_plugin_id_t id, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, translated_cb cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, executed_cb cb, int flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, exit_cb cb, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);

EXPORT int qemu_plugin_version = PLUGIN_VERSION;

#define LARGEST_MARKS 4096
static uint64_t marks[LARGEST_MARKS], executed;
static size_t mark_count;
static FILE *out;

static void on_block(unsigned int vcpu, void *data) {
  (void)vcpu;
  executed += (uintptr_t)data;
}

static void on_mark(unsigned int vcpu, void *data) {
  (void)vcpu;
  fprintf(out, "%" PRIx64 " %" PRIu64 "\n", marks[(uintptr_t)data], executed);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  const uint64_t start = qemu_plugin_tb_vaddr(tb);
  for (size_t i = 0; i < mark_count; ++i)
    if (marks[i] == start) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_mark, 0, (void *)i);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, 0, (void *)qemu_plugin_tb_n_insns(tb));
}

static void finish(qemu_plugin_id_t id, void *data) {
  (void)id, (void)data;
  fclose(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "out=", 4) == 0) out = fopen(argv[i] + 4, "w");
    if (strncmp(argv[i], "marks=", 6) == 0)
      for (char *p = argv[i] + 6; *p != 0 && mark_count < LARGEST_MARKS; p += *p == ':')
        marks[mark_count++] = strtoull(p, &p, 16);
  }
  if (out == NULL) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, finish, NULL);
  return 0;
}
