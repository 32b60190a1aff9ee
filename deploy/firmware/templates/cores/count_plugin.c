/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin of QEMU's code generator that counts executed instructions, exactly, and notes the count at given addresses.
 *
 * Arguments: marks=HEX:HEX:..., out=FILE. Every time that a block starts at a mark, a line "address count" is written.
 * With blocks=1, between the first time at the first mark and the first time at the second, every block that was executed
 * gives a line "start instructions times left": how often it was executed, and how often what came next does not follow it
 * in memory.
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
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);

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

typedef struct block {
  uint64_t start, instructions, last, end, times, left;
  struct block *next;
} block;
static block *blocks, *before;
static int by_blocks, inside, ended;

/* An instruction that would cross a page begins a block of its own; the one before it is then given with wrong bytes. */
static int follows(const block *a, const block *b) {
  return b->start == a->end || (a->end % 1024 == 0 && b->start == a->last + 2);
}

static void on_each_block(unsigned int vcpu, void *data) {
  (void)vcpu;
  block *b = data;
  if (b->start == marks[0] && !ended) inside = 1;
  if (b->start == marks[1] && inside) inside = 0, ended = 1;
  if (!inside) return;
  ++b->times;
  if (before != NULL && !follows(before, b)) ++before->left;
  before = b;
}

static void note_block(struct qemu_plugin_tb *tb) {
  const size_t n = qemu_plugin_tb_n_insns(tb);
  const struct qemu_plugin_insn *end = qemu_plugin_tb_get_insn(tb, n - 1);
  block *b = calloc(1, sizeof *b);
  if (b == NULL) abort();
  b->start = qemu_plugin_tb_vaddr(tb), b->instructions = n;
  b->last = qemu_plugin_insn_vaddr(end), b->end = b->last + qemu_plugin_insn_size(end);
  b->next = blocks, blocks = b;
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_each_block, 0, b);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  const uint64_t start = qemu_plugin_tb_vaddr(tb);
  if (by_blocks) {
    note_block(tb);
    return;
  }
  for (size_t i = 0; i < mark_count; ++i)
    if (marks[i] == start) qemu_plugin_register_vcpu_tb_exec_cb(tb, on_mark, 0, (void *)i);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, 0, (void *)qemu_plugin_tb_n_insns(tb));
}

static void finish(qemu_plugin_id_t id, void *data) {
  (void)id, (void)data;
  for (const block *b = blocks; b != NULL; b = b->next)
    if (b->times != 0)
      fprintf(out, "%" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", b->start, b->instructions, b->times, b->left);
  fclose(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
  (void)info;
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "out=", 4) == 0) out = fopen(argv[i] + 4, "w");
    if (strncmp(argv[i], "blocks=", 7) == 0) by_blocks = atoi(argv[i] + 7);
    if (strncmp(argv[i], "marks=", 6) == 0)
      for (char *p = argv[i] + 6; *p != 0 && mark_count < LARGEST_MARKS; p += *p == ':')
        marks[mark_count++] = strtoull(p, &p, 16);
  }
  if (out == NULL) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, finish, NULL);
  return 0;
}
