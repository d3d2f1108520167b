/* One study on many processes (MPI): rank 0 hands out one example at a time and is the only one that writes the
 * database; the others load the model once and compute. A result depends on its example alone, so it does not matter who
 * made it, or in what order they come.
 *
 * An example is lent: when a rank does not answer in time (it died, or its machine hangs), an idle one gets the example
 * too, and the first answer counts. Where MPI ends the whole job when a process dies, `study resume` goes on with it.
 *
 * Everything here polls and sleeps: a blocking MPI call would take a whole processor from whoever computes. */
#include <stdlib.h>
#include <string.h>

#include "task/study_internal.h"

static bool under_mpirun(void) {
  static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (getenv(sizes[i]) && atoi(getenv(sizes[i])) > 1) return true;
  return false;
}

#ifndef SL_WITH_MPI

sl_status sl_study_team_join(sl_study_team *team) {
  *team = (sl_study_team){.n_rank = 1};
  if (under_mpirun())
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

#include <mpi.h>
#include <time.h>

#include "base/text.h"
#include "task/run_json.h"
#include "task/trace_internal.h"

#define POLL_NS 500000
#define LEASE_MS 60000.0   /* at least, and ... */
#define LEASE_EXAMPLES 10  /* times the slowest example so far */
#define GRACE_MS 5000.0    /* for those who are still at something when all is done */
#define ANYBODY MPI_ANY_SOURCE

enum { TAG_PLAN = 1, TAG_HELLO, TAG_WORK, TAG_RESULT };

static sl_status check(int code, const char *what) {
  char reason[MPI_MAX_ERROR_STRING] = "";
  int n = 0;
  if (code == MPI_SUCCESS) return SL_OK;
  MPI_Error_string(code, reason, &n);
  SL_FAIL(SL_ERROR_FILE, "MPI: %s: %s", what, reason);
}

sl_status sl_study_team_join(sl_study_team *team) {
  int running = 0;
  *team = (sl_study_team){.n_rank = 1};
  if (!under_mpirun()) return SL_OK;
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
  json_t *message = json_pack("{s:I, s:i, s:s}", "number", (json_int_t)number, "status", (int)status, "error", sl_error_message());
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

static sl_status say_hello(const sl_study *s) {
  json_t *facts = json_array(), *message = json_pack("{s:i, s:o}", "status", SL_OK, "facts", facts);
  if (!message) SL_FAIL(SL_ERROR_MEMORY, "no memory for a message");
  for (int i = 0; i < SL_FACT_COUNT; i++) json_array_append_new(facts, json_string(s->facts.value[i]));
  const sl_status status = send_json(message, 0, TAG_HELLO);
  json_decref(message);
  return status;
}

static sl_status compute(const sl_study *s, int64_t number) {
  json_t *result = NULL;
  const sl_status status = sl_study_make_result(s, number, &result);
  if (status != SL_OK) return send_error(status, number, TAG_RESULT);
  json_t *message = json_pack("{s:I, s:i, s:o}", "number", (json_int_t)number, "status", SL_OK, "result", result);
  if (!message) SL_FAIL(SL_ERROR_MEMORY, "no memory for a message");
  const sl_status sent = send_json(message, 0, TAG_RESULT);
  json_decref(message);
  return sent;
}

static sl_status take_work(const sl_study *s, int64_t *number) {
  char *bytes = NULL;
  size_t n_bytes = 0;
  SL_TRY(wait_message(s, &bytes, &n_bytes));
  const bool whole = n_bytes == sizeof *number;
  if (whole) memcpy(number, bytes, sizeof *number);
  free(bytes);
  return whole ? SL_OK : sl_fail(SL_ERROR_FORMAT, "MPI: a message of %zu bytes", n_bytes);
}

sl_status sl_study_team_follow(sl_study *s, const sl_study_team *team) {
  char *plan = NULL;
  size_t n_bytes = 0;
  (void)team;
  SL_TRY(wait_message(s, &plan, &n_bytes));
  const bool begins = n_bytes > 0; /* empty: rank 0 says why not */
  const sl_status status = begins ? read_plan(s, plan) : SL_OK;
  free(plan);
  if (!begins) return SL_OK;
  if (status != SL_OK) return send_error(status, -1, TAG_HELLO);
  SL_TRY(say_hello(s));
  for (;;) {
    int64_t number = -1;
    SL_TRY(take_work(s, &number));
    if (number < 0) return SL_OK;
    SL_TRY(compute(s, number));
  }
}

/* ---- rank 0 ---- */

typedef struct member {
  bool here, out; /* said hello; cannot work */
  int64_t number; /* example that it is at, -1 = none */
  double since_ms;
  bool overdue; /* somebody else has the example too */
} member;

typedef struct lead {
  sl_study *study;
  sl_study_team *team;
  member *members; /* [n_rank]; 0 is not used */
  int64_t next;    /* examples from here on were never handed out */
  double slowest_ms;
} lead;

static bool all_done(const lead *l) { return l->study->done && l->study->state.done >= l->study->state.total; }

static sl_status hand_out(lead *l, int rank, int64_t number) {
  member *m = &l->members[rank];
  m->number = number;
  m->since_ms = sl_now_ms();
  m->overdue = false;
  if (send_bytes(&number, sizeof number, rank, TAG_WORK) != SL_OK) m->out = true;
  return SL_OK;
}

static sl_status give_next(lead *l, int rank) {
  const sl_study *s = l->study;
  const int64_t n = sl_study_data_count(s->data);
  while (l->next < n && s->done[l->next]) l->next += s->n_shard;
  l->members[rank].number = -1;
  if (l->next >= n) return SL_OK;
  const int64_t number = l->next;
  l->next += s->n_shard;
  return hand_out(l, rank, number);
}

/* The first one tells what the model is; the others must have the same. */
static sl_status take_hello(lead *l, int rank, json_t *message) {
  sl_study *s = l->study;
  const json_t *list = json_object_get(message, "facts");
  sl_study_facts facts = {0};
  sl_status status = SL_OK;
  for (int i = 0; i < SL_FACT_COUNT && status == SL_OK; i++) {
    const char *value = json_string_value(json_array_get(list, (size_t)i));
    status = sl_strdup(&facts.value[i], value ? value : "");
  }
  if (status == SL_OK && !s->done) {
    static const sl_study_fact of_model[] = {SL_FACT_MODEL, SL_FACT_MODEL_HASH, SL_FACT_COMPUTE};
    for (int i = 0; i < 3 && status == SL_OK; i++) status = sl_strdup(&s->facts.value[of_model[i]], facts.value[of_model[i]]);
    if (status == SL_OK) status = sl_study_open_store(s);
  }
  if (status == SL_OK) status = sl_study_facts_compare(&s->facts, &facts, "the processes do not agree");
  sl_study_facts_dispose(&facts);
  l->members[rank].here = true;
  return status == SL_OK ? give_next(l, rank) : status;
}

static sl_status take_result(lead *l, int rank, json_t *message) {
  sl_study *s = l->study;
  const int64_t number = json_integer_value(json_object_get(message, "number"));
  const double took_ms = sl_now_ms() - l->members[rank].since_ms;
  if (!s->done || number < 0 || number >= sl_study_data_count(s->data)) SL_FAIL(SL_ERROR_FORMAT, "MPI: a result that nobody asked for");
  if (took_ms > l->slowest_ms) l->slowest_ms = took_ms;
  if (!s->done[number]) {
    SL_TRY(sl_study_accept(s, json_object_get(message, "result")));
    s->done[number] = true;
  }
  return give_next(l, rank);
}

/* A rank that cannot begin is left out, and told; an example's own failure is a result, so what comes as an error while
 * working (no room for tensors, strict, interrupted) ends the study. */
static sl_status take_error(lead *l, int rank, int tag, const json_t *message) {
  const sl_study_request *q = l->study->request;
  const char *error = json_string_value(json_object_get(message, "error"));
  const sl_status status = (sl_status)json_integer_value(json_object_get(message, "status"));
  bool any = false;
  l->members[rank].out = true;
  for (int i = 1; i < l->team->n_rank; i++) any = any || !l->members[i].out;
  if (tag == TAG_RESULT || !any) SL_FAIL(status, "%s", error ? error : "a process failed");
  sl_text line = {0};
  if (q->log && sl_text_format(&line, "rank %d is left out: %s", rank, error ? error : "") == SL_OK) q->log(q->user, line.data);
  sl_text_dispose(&line);
  return SL_OK;
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
    status = probed->MPI_TAG == TAG_HELLO ? take_hello(l, probed->MPI_SOURCE, message) : take_result(l, probed->MPI_SOURCE, message);
  json_decref(message);
  return status;
}

static int find_idle(const lead *l) {
  for (int i = 1; i < l->team->n_rank; i++)
    if (l->members[i].here && !l->members[i].out && l->members[i].number < 0) return i;
  return 0;
}

static double lease_ms(const lead *l) {
  if (l->study->plan.lease_s > 0) return 1000.0 * (double)l->study->plan.lease_s;
  return l->slowest_ms * LEASE_EXAMPLES > LEASE_MS ? l->slowest_ms * LEASE_EXAMPLES : LEASE_MS;
}

/* Examples that nobody has answered for in time go to whoever has nothing to do. */
static sl_status lend_again(lead *l) {
  for (int i = 1; i < l->team->n_rank; i++) {
    member *m = &l->members[i];
    const int idle = find_idle(l);
    if (!idle) return SL_OK;
    if (m->number < 0 || m->overdue || l->study->done[m->number]) continue;
    if (!m->out && sl_now_ms() - m->since_ms < lease_ms(l)) continue;
    m->overdue = true;
    SL_TRY(hand_out(l, idle, m->number));
  }
  return SL_OK;
}

static sl_status work(lead *l) {
  while (!all_done(l)) {
    MPI_Status message;
    bool found = false;
    SL_TRY(sl_study_check_cancel(l->study));
    SL_TRY(poll_message(&found, &message, ANYBODY));
    if (found)
      SL_TRY(take(l, &message));
    else
      SL_TRY(lend_again(l));
    if (!found) nap();
  }
  return SL_OK;
}

/* Those who are at something get a moment to tell it; who is silent then is lost. Ranks that still load are waited for. */
static void dismiss(lead *l) {
  const int64_t over = -1;
  const double since = sl_now_ms();
  for (int i = 1; i < l->team->n_rank; i++) send_bytes(&over, sizeof over, i, TAG_WORK);
  for (bool waiting = true; waiting;) {
    MPI_Status probed;
    bool found = false;
    char *bytes = NULL;
    size_t n_bytes = 0;
    poll_message(&found, &probed, ANYBODY);
    if (found && take_message(&probed, &bytes, &n_bytes) == SL_OK && probed.MPI_TAG == TAG_RESULT)
      l->members[probed.MPI_SOURCE].number = -1;
    free(bytes);
    if (!found) nap();
    bool busy = false;
    for (int i = 1; i < l->team->n_rank; i++) busy = busy || (l->members[i].number >= 0 && !l->members[i].out);
    waiting = found || (busy && sl_now_ms() - since < GRACE_MS);
    l->team->lost = busy;
  }
  const sl_study_request *q = l->study->request;
  if (l->team->lost && q->log) q->log(q->user, "a process does not answer; MPI will end the job as failed, but what is stored is whole");
}

sl_status sl_study_team_lead(sl_study *s, sl_study_team *team, sl_status prepared) {
  lead l = {.study = s, .team = team, .next = s->shard};
  const char *plan = prepared == SL_OK ? s->facts.value[SL_FACT_PLAN] : "";
  for (int i = 1; i < team->n_rank; i++) send_bytes(plan, strlen(plan), i, TAG_PLAN);
  if (prepared != SL_OK) return prepared;
  sl_status status = SL_ALLOC(l.members, (size_t)team->n_rank, "processes");
  for (int i = 0; i < team->n_rank && status == SL_OK; i++) l.members[i].number = -1;
  s->started_ms = sl_now_ms();
  if (status == SL_OK) status = work(&l);
  if (l.members) dismiss(&l);
  free(l.members);
  return status;
}

#endif
