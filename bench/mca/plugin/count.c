// A plugin of qemu-user that counts the instructions run in functions whose name
// contains its argument, function by function. The declarations are those of qemu's
// plugin interface, version 1, whose header Debian does not package.
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*atexit_cb)(qemu_plugin_id_t, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, atexit_cb, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int op, void *, uint64_t);
void qemu_plugin_outs(const char *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { most = 1024 };
static struct { char *name; uint64_t count; } functions[most];
static const char *wanted;

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const char *name = qemu_plugin_insn_symbol(insn);
		if (!name || !strstr(name, wanted))
			continue;
		int f = 0;
		while (f < most && functions[f].name && strcmp(functions[f].name, name))
			f++;
		if (f == most)
			abort();
		if (!functions[f].name)
			functions[f].name = strdup(name);
		qemu_plugin_register_vcpu_insn_exec_inline(insn, 0 /* add */, &functions[f].count, 1);
	}
}

static void report(qemu_plugin_id_t id, void *unused)
{
	char line[512];
	for (int f = 0; f < most && functions[f].name; f++) {
		snprintf(line, sizeof line, "%s %" PRIu64 "\n", functions[f].name, functions[f].count);
		qemu_plugin_outs(line);
	}
}

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
	if (argc != 1 || !(wanted = strchr(argv[0], '=')))
		return 1;
	wanted = strdup(wanted + 1);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
	qemu_plugin_register_atexit_cb(id, report, NULL);
	return 0;
}
