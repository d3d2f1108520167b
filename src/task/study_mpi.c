/* One study on many processes (MPI): rank 0 hands out units of work (study_units.h: an example, or a block of an
 * example's masks) and is the only one that writes the database; the others load the model once and compute. A result
 * depends on its example alone, so it does not matter who made it, or in what order they come.
 *
 * A unit is lent: when a rank does not answer in time (it died, or its machine hangs), an idle one gets it too, and the
 * first answer counts. Where MPI ends the whole job when a process dies, `study resume` goes on with it.
 *
 * Everything here polls and sleeps: a blocking MPI call would take a whole processor from whoever computes. */
#include <stdlib.h>
#include <string.h>

#include "task/study_internal.h"

static int number_in(const char *name) { return getenv(name) ? atoi(getenv(name)) : 0; }

/* Whether this process was started with others as one job. Slurm also starts processes that have nothing to do with each
 * other, such as shards. */
static bool is_team(const sl_study_request *request) {
  if (number_in("OMPI_COMM_WORLD_SIZE") > 1) return true;
  if (getenv("SLURM_STEP_NUM_TASKS")) return number_in("SLURM_STEP_NUM_TASKS") > 1 && request->n_shard == 0;
  return number_in("PMI_SIZE") > 1 || number_in("MPI_LOCALNRANKS") > 1;
}

#ifndef SL_WITH_MPI

sl_status sl_study_team_join(sl_study_team *team, const sl_study_request *request) {
  *team = (sl_study_team){.n_rank = 1};
  if (is_team(request))
    SL_FAIL(SL_ERROR_UNSUPPORTED, "this sightline was built without MPI (cmake -DSL_MPI=ON); --shard i/n needs none");
  return SL_OK;
}
void sl_study_team_leave(const sl_study_team *team) { (void)team; }
sl_status sl_study_team_lead(sl_study *s, sl_study_team *team, sl_status prepared) {
  (void)s, (void)team;
  return prepared;
}
sl_status sl_study_team_follow(sl_study *s, const sl_study_team *team) {
  (void)s, (void)team;
  return SL_OK;
}

#else

#include <math.h>
#include <mpi.h>
#include <time.h>

#include "base/text.h"
#include "task/run_json.h"
#include "task/study_units.h"
#include "task/trace_internal.h"

#define POLL_NS 500000
#define LEASE_MS 60000.0   /* at least, and ... */
#define LEASE_UNITS 10     /* times the slowest unit so far */
#define GRACE_MS 5000.0    /* for those who are still at something when all is done */
#define LOADING_MS 600000.0 /* for those who still read the model then */
#define ANYBODY MPI_ANY_SOURCE

enum { TAG_PLAN = 1, TAG_HELLO, TAG_WORK, TAG_RESULT };

static sl_status check(int code, const char *what) {
  char reason[MPI_MAX_ERROR_STRING] = "";
  int n = 0;
  if (code == MPI_SUCCESS) return SL_OK;
  MPI_Error_string(code, reason, &n);
  SL_FAIL(SL_ERROR_FILE, "MPI: %s: %s", what, reason);
}

sl_status sl_study_team_join(sl_study_team *team, const sl_study_request *request) {
  int running = 0, ended = 0;
  *team = (sl_study_team){.n_rank = 1};
  if (!is_team(request)) return SL_OK;
  SL_TRY(check(MPI_Finalized(&ended), "starting"));
  if (ended)
    SL_FAIL(SL_ERROR_UNSUPPORTED, "MPI has ended in this process and cannot start again: expected one study, or MPI "
                                  "started by the caller and ended after the last, found another study");
  SL_TRY(check(MPI_Initialized(&running), "starting"));
  if (!running) SL_TRY(check(MPI_Init(NULL, NULL), "starting"));
  team->ours = !running;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  SL_TRY(check(MPI_Comm_rank(MPI_COMM_WORLD, &team->rank), "rank"));
  return check(MPI_Comm_size(MPI_COMM_WORLD, &team->n_rank), "size");
}

/* With a rank lost nobody would come out of MPI_Finalize: the job then ends as MPI ends one. */
void sl_study_team_leave(const sl_study_team *team) {
  if (team->ours && !team->lost) MPI_Finalize();
}

/* ---- messages: JSON texts, and numbers of examples ---- */

static sl_status send_bytes(const void *bytes, size_t n_bytes, int to, int tag) {
  if (n_bytes > INT32_MAX) SL_FAIL(SL_ERROR_MEMORY, "MPI: a message of %zu bytes", n_bytes);
  return check(MPI_Send(bytes, (int)n_bytes, MPI_BYTE, to, tag, MPI_COMM_WORLD), "sending");
}

/* All digits of doubles: what arrives is what was sent. */
static sl_status send_json(const json_t *value, int to, int tag) {
  char *text = json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(17));
  if (!text) SL_FAIL(SL_ERROR_MEMORY, "no memory for a message");
  const sl_status status = send_bytes(text, strlen(text), to, tag);
  free(text);
  return status;
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL); }

static sl_status poll_message(bool *found, MPI_Status *message, int from) {
  int flag = 0;
  const int code = MPI_Iprobe(from, MPI_ANY_TAG, MPI_COMM_WORLD, &flag, message);
  *found = code == MPI_SUCCESS && flag;
  return SL_OK; /* a connection that broke is a rank that does not answer */
}

/* The polled message as text of n bytes and a NUL (free()). */
static sl_status take_message(const MPI_Status *message, char **bytes, size_t *n_bytes) {
  int n = 0;
  SL_TRY(check(MPI_Get_count(message, MPI_BYTE, &n), "receiving"));
  SL_TRY(SL_ALLOC(*bytes, (size_t)n + 1, "message"));
  *n_bytes = (size_t)n;
  return check(MPI_Recv(*bytes, n, MPI_BYTE, message->MPI_SOURCE, message->MPI_TAG, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
               "receiving");
}

static sl_status wait_message(const sl_study *s, char **bytes, size_t *n_bytes) {
  MPI_Status message;
  bool found = false;
  while (!found) {
    SL_TRY(sl_study_check_cancel(s));
    SL_TRY(poll_message(&found, &message, 0));
    if (!found) nap();
  }
  return take_message(&message, bytes, n_bytes);
}

/* ---- those who compute ---- */

/* What went wrong, for rank 0 to tell. */
static sl_status send_error(sl_status status, int64_t number, int tag) {
  json_t *message =
      json_pack("{s:I, s:i, s:s}", "number", (json_int_t)number, "status", (int)status, "error", sl_error_message());
  if (!message) SL_FAIL(SL_ERROR_MEMORY, "no memory for a message");
  const sl_status sent = send_json(message, 0, tag);
  json_decref(message);
  return sent;
}

static sl_status read_plan(sl_study *s, const char *text) {
  static const sl_study_request no_settings = {.size = sizeof no_settings};
  SL_TRY(sl_study_plan_read(&s->plan, &no_settings, text));
  SL_TRY(sl_study_data_open(&s->data, &s->plan));
  SL_TRY(sl_study_fill_facts(s));
  return sl_study_open_model(s, true);
}

/* "3 (0123456789abcdef)": examples that cannot be done, and which. */
static void describe_bad(const sl_study *s, char out[48]) {
  int64_t n = 0;
  const uint64_t hash = sl_study_data_bad_rows(s->data, &n);
  snprintf(out, 48, "%lld (%016llx)", (long long)n, (unsigned long long)hash);
}

static sl_status say_hello(const sl_study *s) {
  char bad[48];
  describe_bad(s, bad);
  json_t *facts = json_array(), *message = json_pack("{s:i, s:s, s:o}", "status", SL_OK, "bad", bad, "facts", facts);
  if (!message) SL_FAIL(SL_ERROR_MEMORY, "no memory for a message");
  for (int i = 0; i < SL_FACT_COUNT; i++) json_array_append_new(facts, json_string(s->facts.value[i]));
  const sl_status status = send_json(message, 0, TAG_HELLO);
  json_decref(message);
  return status;
}

/* Work as it is sent: the unit, and behind it the targets that are known of a unit of kind finish. */
typedef struct work_message {
  sl_unit unit;
  double known[];
} work_message;

static sl_status send_answer(json_t *message) {
  if (!message) SL_FAIL(SL_ERROR_MEMORY, "no memory for a message");
  const sl_status sent = send_json(message, 0, TAG_RESULT);
  json_decref(message);
  return sent;
}

static sl_status measure(const sl_study *s, const sl_unit *unit) {
  sl_mask_block share = {.first = unit->first, .n = unit->n};
  const sl_status status = sl_study_measure_masks(s, unit->number, &share);
  if (status != SL_OK) return send_error(status, unit->number, TAG_RESULT);
  json_t *targets = json_array();
  for (int i = 0; i < share.n; i++) json_array_append_new(targets, sl_json_number(share.target[i]));
  free(share.target);
  return send_answer(json_pack("{s:I, s:i, s:i, s:i, s:o}", "number", (json_int_t)unit->number, "status", SL_OK,
                               "first", (int)unit->first, "all", share.n_all, "masks", targets));
}

static sl_status compute(const sl_study *s, work_message *work) {
  const sl_unit *unit = &work->unit;
  sl_mask_block known = {.target = work->known, .n_known = unit->n};
  json_t *result = NULL;
  if (unit->kind == SL_UNIT_MASKS) return measure(s, unit);
  const sl_status status = sl_study_make_result(s, unit->number, unit->kind == SL_UNIT_FINISH ? &known : NULL, &result);
  if (status != SL_OK) return send_error(status, unit->number, TAG_RESULT);
  return send_answer(
      json_pack("{s:I, s:i, s:o}", "number", (json_int_t)unit->number, "status", SL_OK, "result", result));
}

static sl_status take_work(const sl_study *s, work_message **work) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  SL_TRY(wait_message(s, &bytes, &n_bytes));
  *work = (work_message *)bytes;
  const bool whole =
      n_bytes >= sizeof(work_message) && (*work)->unit.n >= 0 &&
      n_bytes ==
          sizeof(work_message) + ((*work)->unit.kind == SL_UNIT_FINISH ? (size_t)(*work)->unit.n * sizeof(double) : 0);
  if (whole) return SL_OK;
  free(bytes);
  SL_FAIL(SL_ERROR_FORMAT, "MPI: a message of %zu bytes", n_bytes);
}

/* Whoever computes is sent nothing but that the study is over: somebody else was given the same and was quicker. */
static bool is_wanted(void *user, const char *what, double done, double total) {
  bool *dismissed = user, found = false;
  MPI_Status message;
  (void)what, (void)done, (void)total;
  poll_message(&found, &message, 0);
  *dismissed = *dismissed || found;
  return !*dismissed;
}

/* What is_wanted saw is taken, so that MPI can end with nothing under way. */
static sl_status take_dismissal(void) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  MPI_Status message;
  bool found = false;
  SL_TRY(poll_message(&found, &message, 0));
  const sl_status status = found ? take_message(&message, &bytes, &n_bytes) : SL_OK;
  free(bytes);
  return status;
}

sl_status sl_study_team_follow(sl_study *s, const sl_study_team *team) {
  char *plan = NULL;
  size_t n_bytes = 0;
  bool dismissed = false;
  (void)team;
  s->watch = is_wanted;
  s->watcher = &dismissed;
  const sl_status told = wait_message(s, &plan, &n_bytes);
  if (told != SL_OK) return send_error(told, -1, TAG_HELLO); /* rank 0 waits for those who may still come */
  const bool begins = n_bytes > 0; /* empty: rank 0 says why not */
  const sl_status status = begins ? read_plan(s, plan) : SL_OK;
  free(plan);
  if (!begins) return SL_OK;
  if (status != SL_OK) return send_error(status, -1, TAG_HELLO);
  SL_TRY(say_hello(s));
  for (;;) {
    work_message *work;
    SL_TRY(take_work(s, &work));
    const bool over = work->unit.number < 0;
    const sl_status computed = over ? SL_OK : compute(s, work);
    free(work);
    if (dismissed) return take_dismissal();
    if (over || computed != SL_OK) return computed;
  }
}

/* ---- rank 0 ---- */

typedef struct member {
  bool here, out; /* said hello; cannot work */
  sl_unit unit;   /* that it is at; number -1 = none */
  double since_ms;
  int n_lent;   /* how often the unit was lent before */
  bool overdue; /* somebody else has the unit too */
  work_message *sent; /* until it has left */
  MPI_Request request;
} member;

typedef struct lead {
  sl_study *study;
  sl_study_team *team;
  member *members; /* [n_rank]; 0 is not used */
  sl_units *units; /* from the first hello on */
  double slowest_ms;
} lead;

static bool all_done(const lead *l) { return l->study->done && l->study->state.done >= l->study->state.total; }

/* Does not wait for the rank to take it: one that hangs must not hold up the others. */
static sl_status hand_out(lead *l, int rank, sl_unit unit, int n_lent) {
  member *m = &l->members[rank];
  const size_t n_known = unit.kind == SL_UNIT_FINISH ? (size_t)unit.n : 0,
               bytes = sizeof *m->sent + n_known * sizeof(double);
  if (m->sent) MPI_Wait(&m->request, MPI_STATUS_IGNORE); /* it has answered to that */
  free(m->sent);
  m->sent = calloc(1, bytes);
  if (!m->sent) SL_FAIL(SL_ERROR_MEMORY, "no memory for a message");
  m->sent->unit = m->unit = unit;
  if (n_known) memcpy(m->sent->known, sl_units_known(l->units, unit.number), n_known * sizeof(double));
  m->since_ms = sl_now_ms();
  m->n_lent = n_lent;
  m->overdue = false;
  if (bytes > INT32_MAX ||
      MPI_Isend(m->sent, (int)bytes, MPI_BYTE, rank, TAG_WORK, MPI_COMM_WORLD, &m->request) != MPI_SUCCESS)
    m->out = true;
  return SL_OK;
}

static bool is_idle(const lead *l, int rank) {
  const member *m = &l->members[rank];
  return m->here && !m->out && m->unit.number < 0;
}

/* To whoever has nothing to do, while there is something. */
static sl_status give(lead *l) {
  for (int i = 1; i < l->team->n_rank && l->units; i++) {
    sl_unit unit;
    bool any = false;
    if (!is_idle(l, i)) continue;
    SL_TRY(sl_units_next(l->units, &unit, &any));
    if (!any) return SL_OK;
    SL_TRY(hand_out(l, i, unit, 0));
  }
  return SL_OK;
}

static sl_status start_units(lead *l) {
  const sl_study *s = l->study;
  bool splits = false;
  for (int i = 0; i < s->plan.n_analysis; i++) splits = splits || strcmp(s->plan.analyses[i], "heads") == 0;
  return sl_units_new(&l->units, s->shard, s->n_shard, sl_study_data_count(s->data), s->done,
                      splits ? (int)s->plan.mask_block : 0, l->team->n_rank - 1);
}

/* A rank that cannot be used is told of and not given anything. It fails when there is no other. */
static sl_status leave_out(lead *l, int rank, sl_status status, const char *error) {
  const sl_study_request *q = l->study->request;
  sl_text line = {0};
  bool any = false;
  l->members[rank].out = true;
  for (int i = 1; i < l->team->n_rank; i++) any = any || !l->members[i].out;
  const sl_status written = sl_text_format(&line, "rank %d is left out: %s", rank, error);
  if (written == SL_OK && any && q->log) q->log(q->user, line.data);
  const sl_status failed = written == SL_OK && !any ? sl_fail(status, "%s", line.data) : written;
  sl_text_dispose(&line);
  return failed;
}

/* A rank that does not see the pictures would fail whatever it is given, and sooner than others are done. */
static sl_status check_sight(lead *l, int rank, const json_t *message, bool *same) {
  const char *theirs = json_string_value(json_object_get(message, "bad"));
  char ours[48];
  sl_text line = {0};
  describe_bad(l->study, ours);
  *same = theirs && strcmp(theirs, ours) == 0;
  if (*same) return SL_OK;
  sl_status status = sl_text_format(
      &line, "rows that cannot be done (hash of which): expected %s as on rank 0, found %s; does it see %s?", ours,
      theirs ? theirs : "", l->study->plan.images);
  if (status == SL_OK) status = leave_out(l, rank, SL_ERROR_ARGUMENT, line.data);
  sl_text_dispose(&line);
  return status;
}

/* The first one tells what the model is; the others must have the same, and compute in the same way. */
static sl_status take_hello(lead *l, int rank, json_t *message) {
  sl_study *s = l->study;
  bool same = false;
  l->members[rank].here = true;
  SL_TRY(check_sight(l, rank, message, &same));
  if (!same) return SL_OK;
  const json_t *list = json_object_get(message, "facts");
  sl_study_facts facts = {0};
  sl_status status = SL_OK;
  for (int i = 0; i < SL_FACT_COUNT && status == SL_OK; i++) {
    const char *value = json_string_value(json_array_get(list, (size_t)i));
    status = sl_strdup(&facts.value[i], value ? value : "");
  }
  if (status == SL_OK && !s->done) {
    static const sl_study_fact of_model[] = {SL_FACT_MODEL, SL_FACT_MODEL_HASH, SL_FACT_COMPUTE};
    for (int i = 0; i < 3 && status == SL_OK; i++)
      status = sl_strdup(&s->facts.value[of_model[i]], facts.value[of_model[i]]);
    if (status == SL_OK) status = sl_study_open_store(s);
    if (status == SL_OK) status = start_units(l);
    s->started_ms = sl_now_ms(); /* the rate is that of computing */
  }
  if (status == SL_OK && sl_study_facts_compare(&s->facts, &facts, "not as the first process") != SL_OK) {
    char *reason = NULL;
    status = sl_strdup(&reason, sl_error_message());
    if (status == SL_OK) status = leave_out(l, rank, SL_ERROR_ARGUMENT, reason);
    free(reason);
  }
  sl_study_facts_dispose(&facts);
  return status;
}

/* {"number", "first", "all", "masks": [targets]} */
static sl_status take_masks(lead *l, json_t *message) {
  const json_t *masks = json_object_get(message, "masks");
  const int n = (int)json_array_size(masks);
  const sl_unit unit = {json_integer_value(json_object_get(message, "number")), SL_UNIT_MASKS,
                        (int32_t)json_integer_value(json_object_get(message, "first")), n};
  double *target;
  SL_TRY(SL_ALLOC(target, (size_t)n, "targets"));
  for (int i = 0; i < n; i++) {
    const json_t *value = json_array_get(masks, (size_t)i);
    target[i] = json_is_number(value) ? json_number_value(value) : NAN;
  }
  const sl_status status =
      sl_units_take(l->units, &unit, (int)json_integer_value(json_object_get(message, "all")), target, n);
  free(target);
  return status;
}

static sl_status take_result(lead *l, int rank, json_t *message) {
  sl_study *s = l->study;
  member *m = &l->members[rank];
  const int64_t number = json_integer_value(json_object_get(message, "number"));
  const double took_ms = sl_now_ms() - m->since_ms;
  if (!s->done || number < 0 || number >= sl_study_data_count(s->data))
    SL_FAIL(SL_ERROR_FORMAT, "MPI: a result that nobody asked for");
  if (took_ms > l->slowest_ms) l->slowest_ms = took_ms;
  m->unit.number = -1;
  if (s->done[number]) return SL_OK; /* somebody was quicker */
  if (json_object_get(message, "masks")) return take_masks(l, message);
  SL_TRY(sl_study_accept(s, json_object_get(message, "result")));
  s->done[number] = true;
  sl_units_close(l->units, number);
  s->n_split = sl_units_split(l->units);
  return SL_OK;
}

/* A rank that cannot begin is left out, and told; an example's own failure is a result, so what comes as an error while
 * working (no room for tensors, strict, interrupted) ends the study. */
static sl_status take_error(lead *l, int rank, int tag, const json_t *message) {
  const char *text = json_string_value(json_object_get(message, "error")), *error = text ? text : "a process failed";
  const sl_status status = (sl_status)json_integer_value(json_object_get(message, "status"));
  if (tag == TAG_HELLO) return leave_out(l, rank, status, error);
  l->members[rank].out = true;
  SL_FAIL(status, "%s", error);
}

static sl_status take(lead *l, const MPI_Status *probed) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  json_t *message = NULL;
  sl_status status = take_message(probed, &bytes, &n_bytes);
  if (status == SL_OK) status = sl_json_parse(&message, bytes, n_bytes, "MPI message");
  free(bytes);
  SL_TRY(status);
  if (json_integer_value(json_object_get(message, "status")) != SL_OK)
    status = take_error(l, probed->MPI_SOURCE, probed->MPI_TAG, message);
  else
    status = probed->MPI_TAG == TAG_HELLO ? take_hello(l, probed->MPI_SOURCE, message)
                                          : take_result(l, probed->MPI_SOURCE, message);
  json_decref(message);
  return status;
}

static int find_idle(const lead *l) {
  for (int i = 1; i < l->team->n_rank; i++)
    if (is_idle(l, i)) return i;
  return 0;
}

/* Twice as long every time that a unit is lent again: one that takes long is not lent to everybody. */
static double lease_ms(const lead *l, const member *m) {
  const double own = l->slowest_ms * LEASE_UNITS > LEASE_MS ? l->slowest_ms * LEASE_UNITS : LEASE_MS;
  return ldexp(l->study->plan.lease_s > 0 ? 1000.0 * (double)l->study->plan.lease_s : own, m->n_lent);
}

/* Units that nobody has answered for in time go to whoever has nothing to do. */
static sl_status lend_again(lead *l) {
  for (int i = 1; i < l->team->n_rank; i++) {
    member *m = &l->members[i];
    const int idle = find_idle(l);
    if (!idle) return SL_OK;
    if (m->unit.number < 0 || m->overdue || l->study->done[m->unit.number]) continue;
    if (!m->out && sl_now_ms() - m->since_ms < lease_ms(l, m)) continue;
    m->overdue = true;
    SL_TRY(hand_out(l, idle, m->unit, m->n_lent + 1));
  }
  return SL_OK;
}

static sl_status work(lead *l) {
  while (!all_done(l)) {
    MPI_Status message;
    bool found = false;
    SL_TRY(sl_study_check_cancel(l->study));
    SL_TRY(poll_message(&found, &message, ANYBODY));
    if (found) SL_TRY(take(l, &message));
    SL_TRY(give(l));
    if (!found) SL_TRY(lend_again(l));
    if (!found) nap();
  }
  return SL_OK;
}

/* Takes what ranks still say, for nobody: an answer makes its rank idle. */
static bool take_late(lead *l) {
  MPI_Status probed;
  bool found = false;
  char *bytes = NULL;
  size_t n_bytes = 0;
  poll_message(&found, &probed, ANYBODY);
  if (!found) return false;
  if (take_message(&probed, &bytes, &n_bytes) == SL_OK) {
    l->members[probed.MPI_SOURCE].here = true;
    if (probed.MPI_TAG == TAG_RESULT) l->members[probed.MPI_SOURCE].unit.number = -1;
  }
  free(bytes);
  return true;
}

/* Whether a rank that was told to stop may still say something: where all is done, its own lease holds. */
static bool may_answer(const lead *l, const member *m, double told_ms, bool whole) {
  const double now = sl_now_ms();
  if (m->unit.number < 0 || m->out) return false;
  return now - told_ms < GRACE_MS || (whole && now - m->since_ms < lease_ms(l, m));
}

/* Those who are at something stop it at their next step and say so; those who still read the model get some minutes. Who
 * is silent then is lost. */
static void dismiss(lead *l, bool whole) {
  const work_message over = {.unit = {.number = -1}};
  const double since = sl_now_ms();
  for (int i = 1; i < l->team->n_rank; i++) send_bytes(&over, sizeof over, i, TAG_WORK);
  for (bool waiting = true; waiting;) {
    bool busy = false, loading = false, patient = false;
    const bool found = take_late(l);
    if (!found) nap();
    for (int i = 1; i < l->team->n_rank; i++) {
      busy = busy || (l->members[i].unit.number >= 0 && !l->members[i].out);
      patient = patient || may_answer(l, &l->members[i], since, whole);
      loading = loading || !(l->members[i].here || l->members[i].out);
    }
    const double waited = sl_now_ms() - since;
    waiting = found || (loading && waited < LOADING_MS) || patient;
    l->team->lost = busy || loading;
  }
  const sl_study_request *q = l->study->request;
  if (l->team->lost && q->log)
    q->log(q->user, "a process does not answer; MPI will end the job as failed, but what is stored is whole");
}

/* What a lost rank never took stays where MPI may still look for it: the process is about to end. */
static void lead_dispose(lead *l) {
  for (int i = 1; l->members && i < l->team->n_rank; i++) {
    int gone = 1;
    if (l->members[i].sent) MPI_Test(&l->members[i].request, &gone, MPI_STATUS_IGNORE);
    if (gone) free(l->members[i].sent);
  }
  free(l->members);
  sl_units_free(l->units);
}

sl_status sl_study_team_lead(sl_study *s, sl_study_team *team, sl_status prepared) {
  lead l = {.study = s, .team = team};
  const char *plan = prepared == SL_OK ? s->facts.value[SL_FACT_PLAN] : "";
  for (int i = 1; i < team->n_rank; i++) send_bytes(plan, strlen(plan), i, TAG_PLAN);
  if (prepared != SL_OK) return prepared;
  sl_status status = SL_ALLOC(l.members, (size_t)team->n_rank, "processes");
  for (int i = 0; i < team->n_rank && status == SL_OK; i++) l.members[i].unit.number = -1;
  s->started_ms = sl_now_ms();
  if (status == SL_OK) status = work(&l);
  if (l.members) dismiss(&l, status == SL_OK);
  lead_dispose(&l);
  return status;
}

#endif
