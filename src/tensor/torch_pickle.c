/* A pickle reader that cannot run anything: a stack machine over plain data.
 *
 * A pickle is a program for a stack machine whose opcodes GLOBAL and REDUCE import any Python function and call it, so
 * a checkpoint can run code where Python opens it. Here a global is an entry of the list below or an error that names
 * it, and REDUCE makes a node of the kind that the entry stands for. Only the opcodes of protocol 2 that torch.save
 * emits are known. Counts are never trusted: memory is taken for what has been read, at most MAX_OPCODE values.
 *
 * Format: Python's Lib/pickletools.py; what PyTorch writes: torch/serialization.py (persistent_id) and
 * torch/_utils.py. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/torch_internal.h"

#define MAX_OPCODE (1u << 22) /* a thousand tensors take about 20,000 */
#define MAX_STACK (1u << 16)  /* Python writes dictionaries and lists in batches of 1000 */
#define MAX_MARK 256          /* open tuples and batches, one inside the other */

static const sl_pickle_global globals[] = {
    {"collections", "OrderedDict", SL_ROLE_ORDERED_DICT, SL_DTYPE_COUNT},
    {"torch._utils", "_rebuild_tensor_v2", SL_ROLE_TENSOR, SL_DTYPE_COUNT},
    {"torch._utils", "_rebuild_tensor_v3", SL_ROLE_TYPED_TENSOR, SL_DTYPE_COUNT},
    {"torch._utils", "_rebuild_parameter", SL_ROLE_PARAMETER, SL_DTYPE_COUNT},
    {"torch.storage", "UntypedStorage", SL_ROLE_UNTYPED_STORAGE, SL_DTYPE_COUNT},
    {"torch", "FloatStorage", SL_ROLE_STORAGE, SL_F32},
    {"torch", "HalfStorage", SL_ROLE_STORAGE, SL_F16},
    {"torch", "BFloat16Storage", SL_ROLE_STORAGE, SL_BF16},
    {"torch", "DoubleStorage", SL_ROLE_STORAGE, SL_F64},
    {"torch", "LongStorage", SL_ROLE_STORAGE, SL_I64},
    {"torch", "IntStorage", SL_ROLE_STORAGE, SL_I32},
    {"torch", "ShortStorage", SL_ROLE_STORAGE, SL_I16},
    {"torch", "CharStorage", SL_ROLE_STORAGE, SL_I8},
    {"torch", "ByteStorage", SL_ROLE_STORAGE, SL_U8},
    {"torch", "BoolStorage", SL_ROLE_STORAGE, SL_BOOL},
    {"torch", "float32", SL_ROLE_DTYPE, SL_F32},
    {"torch", "float16", SL_ROLE_DTYPE, SL_F16},
    {"torch", "bfloat16", SL_ROLE_DTYPE, SL_BF16},
    {"torch", "float64", SL_ROLE_DTYPE, SL_F64},
    {"torch", "int64", SL_ROLE_DTYPE, SL_I64},
    {"torch", "int32", SL_ROLE_DTYPE, SL_I32},
    {"torch", "int16", SL_ROLE_DTYPE, SL_I16},
    {"torch", "int8", SL_ROLE_DTYPE, SL_I8},
    {"torch", "uint8", SL_ROLE_DTYPE, SL_U8},
    {"torch", "bool", SL_ROLE_DTYPE, SL_BOOL},
};

typedef struct machine {
  sl_pickle *pickle;
  const char *path;
  const unsigned char *bytes, *next, *end;
  const unsigned char *opcode; /* the one that runs, for messages */
  sl_pickle_value *stack, *memo;
  size_t n_stack, stack_capacity, n_memo, memo_capacity;
  size_t marks[MAX_MARK]; /* heights of the stack */
  int n_mark;
  bool stopped;
} machine;

const char *sl_pickle_kind_name(sl_pickle_kind kind) {
  static const char *const names[] = {[SL_PICKLE_NONE] = "None",         [SL_PICKLE_BOOL] = "a truth value",
                                      [SL_PICKLE_INT] = "an integer",    [SL_PICKLE_REAL] = "a number",
                                      [SL_PICKLE_TEXT] = "text",         [SL_PICKLE_GLOBAL] = "a global",
                                      [SL_PICKLE_TUPLE] = "a tuple",     [SL_PICKLE_LIST] = "a list",
                                      [SL_PICKLE_DICT] = "a dictionary", [SL_PICKLE_STORAGE] = "a storage",
                                      [SL_PICKLE_TENSOR] = "a tensor"};
  return names[kind];
}

static size_t here(const machine *m) { return (size_t)(m->opcode - m->bytes); }

static sl_status fail_format(const machine *m, const char *expected, const char *found) {
  SL_FAIL(SL_ERROR_FORMAT, "%s: pickle, byte %zu: expected %s, found %s", m->path, here(m), expected, found);
}

/* ---- bytes ---- */

static sl_status take(machine *m, size_t n, const unsigned char **out) {
  if ((size_t)(m->end - m->next) < n) return fail_format(m, "an opcode with all of its bytes", "the end of the pickle");
  *out = m->next;
  m->next += n;
  return SL_OK;
}

/* n bytes, little-endian. */
static sl_status take_number(machine *m, size_t n, uint64_t *out) {
  const unsigned char *at;
  SL_TRY(take(m, n, &at));
  *out = 0;
  for (size_t i = n; i > 0; i--) *out = *out << 8 | at[i - 1];
  return SL_OK;
}

/* Text up to a line break, which is skipped. */
static sl_status take_line(machine *m, const char **line, size_t *n) {
  const unsigned char *end = memchr(m->next, '\n', (size_t)(m->end - m->next));
  if (!end) return fail_format(m, "a name that ends with a line break", "the end of the pickle");
  *line = (const char *)m->next;
  *n = (size_t)(end - m->next);
  m->next = end + 1;
  return SL_OK;
}

/* ---- stack, memo, nodes ---- */

/* Room for one more element. */
static sl_status grow(sl_pickle_value **values, size_t n, size_t *capacity, const char *what) {
  if (n < *capacity) return SL_OK;
  const size_t larger = *capacity ? 2 * *capacity : 8; /* counts are bounded by MAX_OPCODE */
  SL_TRY(SL_REALLOC(*values, larger, what));
  *capacity = larger;
  return SL_OK;
}

static sl_status push(machine *m, sl_pickle_value value) {
  if (m->n_stack == MAX_STACK)
    SL_FAIL(SL_ERROR_FORMAT, "%s: pickle, byte %zu: expected at most %u values on its stack, found more", m->path,
            here(m), MAX_STACK);
  SL_TRY(grow(&m->stack, m->n_stack, &m->stack_capacity, "pickle stack"));
  m->stack[m->n_stack++] = value;
  return SL_OK;
}

/* Values under the last mark cannot be reached, as in Python. */
static sl_status pop(machine *m, sl_pickle_value *out) {
  const size_t floor = m->n_mark ? m->marks[m->n_mark - 1] : 0;
  if (m->n_stack <= floor) return fail_format(m, "a value on the stack", "none");
  *out = m->stack[--m->n_stack];
  return SL_OK;
}

static sl_status pop_kind(machine *m, sl_pickle_kind kind, sl_pickle_value *out) {
  SL_TRY(pop(m, out));
  if (out->kind != kind) return fail_format(m, sl_pickle_kind_name(kind), sl_pickle_kind_name(out->kind));
  return SL_OK;
}

/* The values above the last mark, which is taken away; they stay valid until the next push. */
static sl_status pop_mark(machine *m, sl_pickle_value **values, size_t *n) {
  if (m->n_mark == 0) return fail_format(m, "a mark on the stack", "none");
  const size_t floor = m->marks[--m->n_mark];
  *values = m->stack + floor;
  *n = m->n_stack - floor;
  m->n_stack = floor;
  return SL_OK;
}

static sl_status node_append(sl_pickle_node *node, const sl_pickle_value *values, size_t n) {
  if (n == 0) return SL_OK;
  if (node->capacity - node->n_item < n) {
    size_t larger = node->n_item + n; /* tuples get what they need, what grows doubles */
    if (node->n_item && larger < 2 * node->n_item) larger = 2 * node->n_item;
    SL_TRY(SL_REALLOC(node->items, larger, "pickle items"));
    node->capacity = larger;
  }
  memcpy(node->items + node->n_item, values, n * sizeof *values);
  node->n_item += n;
  return SL_OK;
}

/* A new node with these items, pushed. */
static sl_status push_node(machine *m, sl_pickle_kind kind, const sl_pickle_value *items, size_t n) {
  sl_pickle_node *node;
  SL_TRY(SL_ALLOC(node, 1, "pickle node"));
  node->next = m->pickle->nodes;
  m->pickle->nodes = node;
  SL_TRY(node_append(node, items, n));
  return push(m, (sl_pickle_value){.kind = kind, .node = node});
}

/* ---- opcodes that make plain values ---- */

static sl_status op_protocol(machine *m) {
  uint64_t version;
  SL_TRY(take_number(m, 1, &version));
  if (version != 2)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: pickle: expected protocol 2 (torch.save's own choice), found %llu", m->path,
            (unsigned long long)version);
  return SL_OK;
}

static sl_status op_stop(machine *m) {
  SL_TRY(pop(m, &m->pickle->root));
  m->stopped = true;
  return SL_OK;
}

static sl_status op_mark(machine *m) {
  if (m->n_mark == MAX_MARK)
    SL_FAIL(SL_ERROR_FORMAT, "%s: pickle, byte %zu: expected at most %d tuples inside each other, found more", m->path,
            here(m), MAX_MARK);
  m->marks[m->n_mark++] = m->n_stack;
  return SL_OK;
}

static sl_status op_none(machine *m) { return push(m, (sl_pickle_value){.kind = SL_PICKLE_NONE}); }
static sl_status op_true(machine *m) { return push(m, (sl_pickle_value){.kind = SL_PICKLE_BOOL, .integer = 1}); }
static sl_status op_false(machine *m) { return push(m, (sl_pickle_value){.kind = SL_PICKLE_BOOL}); }

static sl_status push_unsigned(machine *m, size_t n_bytes) {
  uint64_t value;
  SL_TRY(take_number(m, n_bytes, &value));
  return push(m, (sl_pickle_value){.kind = SL_PICKLE_INT, .integer = (int64_t)value});
}

static sl_status op_int_1(machine *m) { return push_unsigned(m, 1); }
static sl_status op_int_2(machine *m) { return push_unsigned(m, 2); }

static sl_status op_int_4(machine *m) {
  uint64_t value;
  SL_TRY(take_number(m, 4, &value));
  return push(m, (sl_pickle_value){.kind = SL_PICKLE_INT, .integer = (int32_t)(uint32_t)value});
}

/* LONG1: any number of bytes, two's complement. */
static sl_status op_long(machine *m) {
  uint64_t n, value;
  SL_TRY(take_number(m, 1, &n));
  if (n > 8) return fail_format(m, "an integer of at most 8 bytes", "a longer one");
  SL_TRY(take_number(m, (size_t)n, &value));
  const unsigned shift = 64 - 8 * (unsigned)n;
  const int64_t integer = n ? (int64_t)(value << shift) >> shift : 0;
  return push(m, (sl_pickle_value){.kind = SL_PICKLE_INT, .integer = integer});
}

static sl_status op_real(machine *m) {
  const unsigned char *ignored;
  SL_TRY(take(m, 8, &ignored));
  return push(m, (sl_pickle_value){.kind = SL_PICKLE_REAL});
}

static sl_status op_text(machine *m) {
  uint64_t n;
  const unsigned char *at;
  SL_TRY(take_number(m, 4, &n));
  SL_TRY(take(m, (size_t)n, &at));
  return push(m, (sl_pickle_value){.kind = SL_PICKLE_TEXT, .n_text = (uint32_t)n, .text = (const char *)at});
}

/* ---- memo ---- */

/* Python counts the memo's places up, so that each number is the next one or an old one. */
static sl_status memo_put(machine *m, size_t n_bytes) {
  uint64_t index;
  sl_pickle_value value;
  SL_TRY(take_number(m, n_bytes, &index));
  SL_TRY(pop(m, &value));
  if (index > m->n_memo) return fail_format(m, "the memo's next place", "a later one");
  if (index == m->n_memo) {
    SL_TRY(grow(&m->memo, m->n_memo, &m->memo_capacity, "pickle memo"));
    m->n_memo++;
  }
  m->memo[index] = value;
  return push(m, value);
}

static sl_status memo_get(machine *m, size_t n_bytes) {
  uint64_t index;
  SL_TRY(take_number(m, n_bytes, &index));
  if (index >= m->n_memo) return fail_format(m, "a place of the memo that was filled", "another");
  return push(m, m->memo[index]);
}

static sl_status op_put(machine *m) { return memo_put(m, 1); }
static sl_status op_long_put(machine *m) { return memo_put(m, 4); }
static sl_status op_get(machine *m) { return memo_get(m, 1); }
static sl_status op_long_get(machine *m) { return memo_get(m, 4); }

/* ---- tuples, lists, dictionaries ---- */

static sl_status op_tuple(machine *m) {
  sl_pickle_value *items;
  size_t n;
  SL_TRY(pop_mark(m, &items, &n));
  return push_node(m, SL_PICKLE_TUPLE, items, n);
}

static sl_status push_small_tuple(machine *m, size_t n) {
  sl_pickle_value items[3] = {{.kind = SL_PICKLE_NONE}};
  for (size_t i = n; i > 0; i--) SL_TRY(pop(m, &items[i - 1]));
  return push_node(m, SL_PICKLE_TUPLE, items, n);
}

static sl_status op_tuple_0(machine *m) { return push_small_tuple(m, 0); }
static sl_status op_tuple_1(machine *m) { return push_small_tuple(m, 1); }
static sl_status op_tuple_2(machine *m) { return push_small_tuple(m, 2); }
static sl_status op_tuple_3(machine *m) { return push_small_tuple(m, 3); }
static sl_status op_list(machine *m) { return push_node(m, SL_PICKLE_LIST, NULL, 0); }
static sl_status op_dict(machine *m) { return push_node(m, SL_PICKLE_DICT, NULL, 0); }

/* Adds items to the container below them, which stays on the stack. */
static sl_status add_items(machine *m, sl_pickle_kind kind, const sl_pickle_value *items, size_t n) {
  sl_pickle_value container;
  SL_TRY(pop_kind(m, kind, &container));
  if (kind == SL_PICKLE_DICT && n % 2) return fail_format(m, "as many values as keys", "one less");
  for (size_t i = 0; kind == SL_PICKLE_DICT && i < n; i += 2)
    if (items[i].kind != SL_PICKLE_TEXT)
      return fail_format(m, "text as a dictionary's key", sl_pickle_kind_name(items[i].kind));
  SL_TRY(node_append(container.node, items, n));
  return push(m, container);
}

static sl_status add_marked(machine *m, sl_pickle_kind kind) {
  sl_pickle_value *items;
  size_t n;
  SL_TRY(pop_mark(m, &items, &n));
  return add_items(m, kind, items, n);
}

static sl_status op_appends(machine *m) { return add_marked(m, SL_PICKLE_LIST); }
static sl_status op_set_items(machine *m) { return add_marked(m, SL_PICKLE_DICT); }

static sl_status op_append(machine *m) {
  sl_pickle_value item;
  SL_TRY(pop(m, &item));
  return add_items(m, SL_PICKLE_LIST, &item, 1);
}

static sl_status op_set_item(machine *m) {
  sl_pickle_value pair[2];
  SL_TRY(pop(m, &pair[1]));
  SL_TRY(pop(m, &pair[0]));
  return add_items(m, SL_PICKLE_DICT, pair, 2);
}

/* ---- globals and what they make ---- */

/* Text of a file for a message: what could steer a terminal is replaced. */
static void make_printable(char out[128], const char *text, size_t n) {
  if (n > 127) n = 127;
  for (size_t i = 0; i < n; i++) out[i] = isprint((unsigned char)text[i]) ? text[i] : '?';
  out[n] = '\0';
}

static bool same_text(const char *text, size_t n, const char *word) {
  return n == strlen(word) && memcmp(text, word, n) == 0;
}

static sl_status op_global(machine *m) {
  const char *module, *name;
  size_t n_module, n_name;
  SL_TRY(take_line(m, &module, &n_module));
  SL_TRY(take_line(m, &name, &n_name));
  for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
    const sl_pickle_global *global = &globals[i];
    if (same_text(module, n_module, global->module) && same_text(name, n_name, global->name))
      return push(m, (sl_pickle_value){.kind = SL_PICKLE_GLOBAL, .global = global});
  }
  char shown_module[128], shown_name[128];
  make_printable(shown_module, module, n_module);
  make_printable(shown_name, name, n_name);
  SL_FAIL(SL_ERROR_UNSUPPORTED,
          "%s: pickle, byte %zu: it asks for %s.%s, which is not among the few names that plain weights need; nothing "
          "of the file was executed",
          m->path, here(m), shown_module, shown_name);
}

/* Checks the first items of a call's arguments or a persistent id. */
static sl_status check_items(const machine *m, const sl_pickle_node *node, const char *what,
                             const sl_pickle_kind *kinds, size_t min, size_t max) {
  if (node->n_item < min || node->n_item > max)
    SL_FAIL(SL_ERROR_FORMAT, "%s: pickle, byte %zu: %s: expected %zu to %zu parts, found %zu", m->path, here(m), what,
            min, max, node->n_item);
  for (size_t i = 0; i < min; i++)
    if (kinds[i] != node->items[i].kind && kinds[i] != SL_PICKLE_NONE) /* NONE: anything */
      SL_FAIL(SL_ERROR_FORMAT, "%s: pickle, byte %zu: %s: part %zu: expected %s, found %s", m->path, here(m), what, i,
              sl_pickle_kind_name(kinds[i]), sl_pickle_kind_name(node->items[i].kind));
  return SL_OK;
}

/* (storage, offset, sizes, strides, requires_grad, hooks[, dtype][, metadata]) */
static sl_status make_tensor(machine *m, const sl_pickle_global *global, const sl_pickle_node *arguments) {
  static const sl_pickle_kind kinds[] = {SL_PICKLE_STORAGE, SL_PICKLE_INT,  SL_PICKLE_TUPLE, SL_PICKLE_TUPLE,
                                         SL_PICKLE_BOOL,    SL_PICKLE_NONE, SL_PICKLE_GLOBAL};
  const bool typed = global->role == SL_ROLE_TYPED_TENSOR;
  const size_t min = typed ? 7 : 6;
  SL_TRY(check_items(m, arguments, global->name, kinds, min, min + 1));
  const sl_pickle_node *storage = arguments->items[0].node;
  const bool untyped = storage->items[1].global->role == SL_ROLE_UNTYPED_STORAGE;
  if (typed != untyped || (typed && arguments->items[6].global->role != SL_ROLE_DTYPE))
    return fail_format(m, "a tensor with one element type", typed ? "two, or none" : "an untyped storage");
  sl_pickle_value items[5] = {{.kind = SL_PICKLE_NONE}};
  memcpy(items, arguments->items, 4 * sizeof *items);
  items[4] = typed ? arguments->items[6] : (sl_pickle_value){.kind = SL_PICKLE_NONE};
  return push_node(m, SL_PICKLE_TENSOR, items, 5);
}

static sl_status make_parameter(machine *m, const sl_pickle_global *global, const sl_pickle_node *arguments) {
  static const sl_pickle_kind kinds[] = {SL_PICKLE_TENSOR, SL_PICKLE_BOOL, SL_PICKLE_NONE};
  SL_TRY(check_items(m, arguments, global->name, kinds, 3, 3));
  return push(m, arguments->items[0]);
}

static sl_status op_reduce(machine *m) {
  sl_pickle_value arguments, callable;
  SL_TRY(pop_kind(m, SL_PICKLE_TUPLE, &arguments));
  SL_TRY(pop_kind(m, SL_PICKLE_GLOBAL, &callable));
  switch (callable.global->role) {
    case SL_ROLE_ORDERED_DICT:
      SL_TRY(check_items(m, arguments.node, "OrderedDict", NULL, 0, 0));
      return push_node(m, SL_PICKLE_DICT, NULL, 0);
    case SL_ROLE_TENSOR:
    case SL_ROLE_TYPED_TENSOR: return make_tensor(m, callable.global, arguments.node);
    case SL_ROLE_PARAMETER: return make_parameter(m, callable.global, arguments.node);
    case SL_ROLE_STORAGE:
    case SL_ROLE_UNTYPED_STORAGE:
    case SL_ROLE_DTYPE: break;
  }
  return fail_format(m, "a function that rebuilds tensors", callable.global->name);
}

/* An OrderedDict's own attributes (state_dict() hangs _metadata on it) are read and dropped. */
static sl_status op_build(machine *m) {
  sl_pickle_value state, object;
  SL_TRY(pop(m, &state));
  SL_TRY(pop_kind(m, SL_PICKLE_DICT, &object));
  return push(m, object);
}

static sl_status op_persistent_id(machine *m) {
  static const sl_pickle_kind kinds[] = {SL_PICKLE_TEXT, SL_PICKLE_GLOBAL, SL_PICKLE_TEXT, SL_PICKLE_TEXT,
                                         SL_PICKLE_INT};
  sl_pickle_value id;
  SL_TRY(pop_kind(m, SL_PICKLE_TUPLE, &id));
  SL_TRY(check_items(m, id.node, "persistent id", kinds, 5, 5));
  const sl_pickle_value *items = id.node->items;
  if (!same_text(items[0].text, items[0].n_text, "storage")) return fail_format(m, "the id of a storage", "another");
  const sl_pickle_role role = items[1].global->role;
  if (role != SL_ROLE_STORAGE && role != SL_ROLE_UNTYPED_STORAGE)
    return fail_format(m, "a storage type", items[1].global->name);
  return push_node(m, SL_PICKLE_STORAGE, items, 5);
}

/* ---- the machine ---- */

/* Without a function: known, and refused. */
static const struct opcode {
  const char *name;
  sl_status (*run)(machine *);
} opcodes[256] = {
    [0x80] = {"PROTO", op_protocol},    ['.'] = {"STOP", op_stop},
    ['('] = {"MARK", op_mark},          ['N'] = {"NONE", op_none},
    [0x88] = {"NEWTRUE", op_true},      [0x89] = {"NEWFALSE", op_false},
    ['K'] = {"BININT1", op_int_1},      ['M'] = {"BININT2", op_int_2},
    ['J'] = {"BININT", op_int_4},       [0x8a] = {"LONG1", op_long},
    ['G'] = {"BINFLOAT", op_real},      ['X'] = {"BINUNICODE", op_text},
    ['q'] = {"BINPUT", op_put},         ['r'] = {"LONG_BINPUT", op_long_put},
    ['h'] = {"BINGET", op_get},         ['j'] = {"LONG_BINGET", op_long_get},
    [')'] = {"EMPTY_TUPLE", op_tuple_0}, [0x85] = {"TUPLE1", op_tuple_1},
    [0x86] = {"TUPLE2", op_tuple_2},    [0x87] = {"TUPLE3", op_tuple_3},
    ['t'] = {"TUPLE", op_tuple},        [']'] = {"EMPTY_LIST", op_list},
    ['a'] = {"APPEND", op_append},      ['e'] = {"APPENDS", op_appends},
    ['}'] = {"EMPTY_DICT", op_dict},    ['s'] = {"SETITEM", op_set_item},
    ['u'] = {"SETITEMS", op_set_items}, ['c'] = {"GLOBAL", op_global},
    ['R'] = {"REDUCE", op_reduce},      ['b'] = {"BUILD", op_build},
    ['Q'] = {"BINPERSID", op_persistent_id},
    ['P'] = {"PERSID", NULL},           ['i'] = {"INST", NULL},
    ['o'] = {"OBJ", NULL},              [0x81] = {"NEWOBJ", NULL},
    [0x82] = {"EXT1", NULL},            [0x83] = {"EXT2", NULL},
    [0x84] = {"EXT4", NULL},            [0x92] = {"NEWOBJ_EX", NULL},
    [0x93] = {"STACK_GLOBAL", NULL},    [0x95] = {"FRAME", NULL},
    [0x8c] = {"SHORT_BINUNICODE", NULL}, [0x94] = {"MEMOIZE", NULL},
    ['S'] = {"STRING", NULL},           ['T'] = {"BINSTRING", NULL},
    ['U'] = {"SHORT_BINSTRING", NULL},  ['I'] = {"INT", NULL},
    ['L'] = {"LONG", NULL},             ['V'] = {"UNICODE", NULL},
    ['p'] = {"PUT", NULL},              ['g'] = {"GET", NULL},
    ['d'] = {"DICT", NULL},             ['l'] = {"LIST", NULL},
    ['0'] = {"POP", NULL},              ['1'] = {"POP_MARK", NULL},
    ['2'] = {"DUP", NULL},              [0x8b] = {"LONG4", NULL},
};

static sl_status run(machine *m) {
  for (uint32_t n_run = 0; !m->stopped; n_run++) {
    m->opcode = m->next;
    if (n_run == MAX_OPCODE)
      SL_FAIL(SL_ERROR_UNSUPPORTED, "%s: pickle: expected at most %u opcodes, found more", m->path, MAX_OPCODE);
    if (m->next == m->end) return fail_format(m, "an opcode", "the end of the pickle");
    const struct opcode *opcode = &opcodes[*m->next++];
    if (!opcode->run)
      SL_FAIL(SL_ERROR_UNSUPPORTED,
              "%s: pickle, byte %zu: expected an opcode that torch.save writes, found %s (0x%02x)", m->path,
              here(m), opcode->name ? opcode->name : "an unknown one", *m->opcode);
    SL_TRY(opcode->run(m));
  }
  return SL_OK;
}

sl_status sl_pickle_load(sl_pickle *pickle, const char *path, const unsigned char *bytes, size_t n_bytes) {
  *pickle = (sl_pickle){.root = {.kind = SL_PICKLE_NONE}};
  machine m = {.pickle = pickle, .path = path, .bytes = bytes, .next = bytes, .end = bytes + n_bytes, .opcode = bytes};
  sl_status status = grow(&m.stack, 0, &m.stack_capacity, "pickle stack");
  if (!status && (n_bytes == 0 || *bytes != 0x80)) status = fail_format(&m, "its protocol first", "something else");
  if (!status) status = run(&m);
  free(m.stack);
  free(m.memo);
  if (status) sl_pickle_dispose(pickle);
  return status;
}

void sl_pickle_dispose(sl_pickle *pickle) {
  while (pickle->nodes) {
    sl_pickle_node *node = pickle->nodes;
    pickle->nodes = node->next;
    free(node->items);
    free(node);
  }
}
