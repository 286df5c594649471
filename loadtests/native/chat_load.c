/* chat_load.c - people who talk with Rapport: they think, send a message, read the reply, and check every token of it.
 * One thread, epoll, no dependencies, loopback only: cheap enough to share a machine with what it measures.
 *
 *   cc -O2 -o chat_load chat_load.c -lm
 *   ./chat_load --port 8000 --users users.txt --says says.txt --think 5-15 --seconds 120 --expect 151
 *
 *  --host H           an address (default 127.0.0.1)      --port P
 *  --users FILE       one user a line: CONVERSATION TOKEN --count N       only the first N of them
 *  --says FILE        what they say, a line each, plain ASCII without quotes
 *  --think A-B        seconds between a reply's end and the next message
 *  --seconds S        start turns for so long             --grace S       then wait for open ones (default 60)
 *  --warm S           turns begun in the first S seconds are not counted
 *  --ramp S           the users' first turns are spread over this time (default: the longest think time)
 *  --turns K          turns of each user at most          --timeout S     for one turn (default 120)
 *  --expect N         tokens of a whole reply             --breaks PCT    replies whose connection is cut in the middle,
 *                                                         and followed further on another one by Last-Event-ID
 *  --hold 1           what is still open at the end is judged by what came so far, and is no failure
 *  --progress FILE    a line of JSON every --every S (default 5)
 *
 * The model server is mock_upstream with st (k: every k-th token carries its send time): the first token also says when
 * the request arrived there, so that what lies before and behind the model can be told from the model's own time.
 * Prints one JSON object, times in ms:
 *   first_token, turn   from the send to the first token, to turn.completed
 *   added_first         first_token less what passed inside the model server: everybody's part but the model's
 *   added_turn          the same of the whole turn (wants a stamp on the last token)
 *   token_delay         of each stamped token, from the model's send to here
 *   gap                 between two events with text
 * missing, repeated, strange, wrong_tag and id_gaps must be 0: tokens not there, there twice, never sent, another
 * stream's, and event ids that do not follow each other. */
#include "common.h"
#include <sys/prctl.h>

enum { THINKING, CONNECTING, SENT, BODY, AWAY };

typedef struct {
  int fd, state, counted, reused, resumed, broken, cuts, turns, status, chunked, close_after, chunk_state, break_at, done, failed;
  long length, got, chunk_left, epoch, number;
  uint64_t due, t0, t_first, t_event, resumed_at, sent_last;
  int64_t arrived, sent_first;
  const char *conversation, *token;
  char tag[40], turn_id[40], last_id[32], id[32], event[48], code[64];
  buf req, in, line, data, text;
  size_t req_off, scanned, tokens;
} user;

static user *U;
static int C, n_lines, expect_n, breaks, hold, most_turns, every_s = 5, ep, port = 8000, n_says;
static double think_a = 5, think_b = 15, seconds = 60, grace = 60, warm, ramp = -1, timeout_s = 120;
static const char *host = "127.0.0.1", *progress;
static char **says;
static volatile int stop;
static struct sockaddr_in SA;
static uint64_t T0, rng = 88172645463325252ull;
static hist h_first, h_turn, h_added, h_added_turn, h_delay, h_gap, h_accept, w_added, w_first;
static struct { uint64_t turns, ok, failed, held, tokens, missing, repeated, strange, wrong_tag, id_gaps, rebased, taken_over, breaks, cuts, resumed, reconnected, timeouts, connect, unfinished, bytes, events; } R;
static uint64_t all_tokens, all_turns;
static int open_now, open_peak, retired;
static struct { char name[64]; uint64_t n; } codes[48];

static uint64_t rnd(void) { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }
static double uniform(double a, double b) { return a + (b - a) * (double)(rnd() % 1000001) / 1e6; }
static void sig(int x) { (void)x; stop = 1; }

static void note(const char *what) {
  for (int i = 0; i < 48; i++)
    if (!codes[i].n || !strcmp(codes[i].name, what)) { if (!codes[i].n) snprintf(codes[i].name, sizeof codes[i].name, "%s", what); codes[i].n++; return; }
}

/* ---- a request ---- */
static void hang_up(user *u) { if (u->fd >= 0) close(u->fd); u->fd = -1; u->reused = 0; }
static void watch(user *u, int out) { struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = u}; epoll_ctl(ep, EPOLL_CTL_MOD, u->fd, &e); }
static void finish(user *u);
static void lost_connection(user *u);

static void push(user *u) {
  while (u->req_off < u->req.len) {
    ssize_t w = send(u->fd, u->req.p + u->req_off, u->req.len - u->req_off, MSG_NOSIGNAL);
    if (w < 0) { if (errno == EAGAIN) { watch(u, 1); return; } lost_connection(u); return; }
    u->req_off += (size_t)w;
  }
  watch(u, 0);
  u->state = SENT;
}

static void dial(user *u) {
  u->status = 0; u->chunked = 0; u->length = -1; u->got = 0; u->chunk_left = 0; u->chunk_state = 0; u->close_after = 0; u->req_off = 0;
  u->in.len = u->line.len = u->data.len = 0; u->event[0] = u->id[0] = 0;
  if (u->fd >= 0) { u->reused = 1; push(u); return; }
  u->reused = 0;
  u->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (u->fd < 0) { perror("socket"); exit(1); }
  int one = 1;
  setsockopt(u->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = u};
  epoll_ctl(ep, EPOLL_CTL_ADD, u->fd, &e);
  u->state = CONNECTING;
  if (connect(u->fd, (void *)&SA, sizeof SA) && errno != EINPROGRESS) lost_connection(u);
}

static void speak(user *u) {
  static uint64_t serial;
  uint64_t now = now_ns();
  u->counted = now - T0 >= (uint64_t)(warm * 1e9);
  R.turns += (uint64_t)u->counted; all_turns++;
  u->turns++;
  u->resumed = u->broken = u->cuts = u->done = u->failed = 0; u->epoch = -1; u->number = -1; u->arrived = u->sent_first = 0; u->sent_last = 0;
  u->t_first = u->t_event = u->resumed_at = 0; u->text.len = u->scanned = u->tokens = 0; u->turn_id[0] = u->last_id[0] = u->code[0] = 0;
  u->break_at = rnd() % 100 < (unsigned)breaks ? (int)(2 + rnd() % (expect_n > 10 ? (unsigned)expect_n / 2 : 4)) : -1;
  snprintf(u->tag, sizeof u->tag, "m%llux%d", (unsigned long long)++serial, (int)(u - U));
  char body[1200], head[2600];
  int k = snprintf(body, sizeof body, "{\"content\":\"%s #tag:%s#\",\"client_message_id\":\"%s-%llx\"}", says[rnd() % (unsigned)n_says], u->tag, u->tag, (unsigned long long)(T0 / 1000000));
  int h = snprintf(head, sizeof head, "POST /v1/conversations/%s/turns HTTP/1.1\r\nhost: %s:%d\r\naccept: text/event-stream\r\nauthorization: Bearer %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n", u->conversation, host, port, u->token, k);
  u->req.len = 0; b_add(&u->req, head, (size_t)h); b_add(&u->req, body, (size_t)k);
  if (++open_now > open_peak) open_peak = open_now;
  u->t0 = now_ns();
  dial(u);
}

static void come_back(user *u) {
  char head[2600];
  int h = snprintf(head, sizeof head, "GET /v1/conversations/%s/turns/%s/stream HTTP/1.1\r\nhost: %s:%d\r\naccept: text/event-stream\r\nauthorization: Bearer %s\r\nlast-event-id: %s\r\n\r\n", u->conversation, u->turn_id, host, port, u->token, u->last_id);
  u->req.len = 0; b_add(&u->req, head, (size_t)h);
  u->resumed++; R.resumed += (uint64_t)u->counted; u->resumed_at = now_ns(); u->t_event = 0;
  dial(u);
}

static void go_away(user *u, double s) { hang_up(u); u->state = AWAY; u->due = now_ns() + (uint64_t)(s * 1e9); }

static void lost_connection(user *u) {
  int fresh = u->state == SENT && u->reused && u->in.len == 0;
  hang_up(u);
  if (fresh) { R.reconnected += (uint64_t)u->counted; dial(u); return; } /* the server let an idle connection go: the same message again, by its id */
  if (++u->cuts > 5) { snprintf(u->code, sizeof u->code, "connection"); u->failed = 1; R.connect += (uint64_t)u->counted; finish(u); return; }
  R.cuts += (uint64_t)u->counted;
  if (u->turn_id[0]) { go_away(u, 0.3); return; }
  u->state = AWAY; u->due = now_ns() + 300000000ull; /* nothing was heard: say it again under the same id */
}

/* ---- what arrives ---- */
static void word(user *u, const char *t, size_t n, uint64_t ts) { /* its time; its place in the row is judged at the end */
  if (n < 4 || memcmp(t, "tok", 3)) return;
  u->tokens++; all_tokens++;
  R.tokens += (uint64_t)u->counted;
  const char *at = memchr(t, '@', n);
  if (!at) return;
  char *rest;
  uint64_t us = strtoull(at + 1, &rest, 10);
  if (*rest == '/' && !u->arrived) { u->arrived = (int64_t)strtoull(rest + 1, NULL, 10); u->sent_first = (int64_t)us; }
  u->sent_last = us;
  if (u->counted && us * 1000 > u->resumed_at) h_add(&h_delay, (int64_t)(ts / 1000) - (int64_t)us);
}

static void heard(user *u, const char *t, int n, uint64_t ts) {
  if (!u->t_first) {
    u->t_first = ts;
  } else if (u->counted && u->t_event) h_add(&h_gap, (int64_t)(ts - u->t_event) / 1000);
  u->t_event = ts;
  b_add(&u->text, t, (size_t)n);
  for (;;) {
    char *from = u->text.p + u->scanned, *blank = memchr(from, ' ', u->text.len - u->scanned);
    if (!blank) break;
    word(u, from, (size_t)(blank - from), ts);
    u->scanned = (size_t)(blank - u->text.p) + 1;
  }
}

static void follow_id(user *u, int anew) {
  long epoch = 0, number = 0;
  if (sscanf(u->id, "%ld-%ld", &epoch, &number) != 2) { R.id_gaps += (uint64_t)u->counted; return; }
  int follows = u->epoch < 0 || anew || (epoch == u->epoch && number == u->number + 1) || (epoch > u->epoch && number == 0);
  if (!follows) R.id_gaps += (uint64_t)u->counted;
  u->epoch = epoch; u->number = number;
  memcpy(u->last_id, u->id, sizeof u->last_id);
}

static int field(const char *d, const char *e, const char *path, char *out, int cap) {
  int bad = 0; const char *v = j_get(d, e, path, &bad);
  return v ? j_str(v, e, out, cap) : -1;
}

static void event(user *u, uint64_t ts) {
  static char out[1 << 16];
  const char *d = u->data.p, *e = d + u->data.len;
  R.events += (uint64_t)u->counted;
  follow_id(u, !strcmp(u->event, "turn.rebased"));
  if (!strcmp(u->event, "reply.delta")) {
    int n = field(d, e, "text", out, sizeof out);
    if (n > 0) heard(u, out, n, ts);
  } else if (!strcmp(u->event, "turn.accepted")) {
    field(d, e, "turn_id", u->turn_id, sizeof u->turn_id);
    if (u->counted && !u->resumed) h_add(&h_accept, (int64_t)(ts - u->t0) / 1000);
  } else if (!strcmp(u->event, "turn.completed")) {
    u->done = 1;
  } else if (!strcmp(u->event, "turn.failed")) {
    u->failed = 1;
    if (field(d, e, "code", u->code, sizeof u->code) < 0) snprintf(u->code, sizeof u->code, "turn.failed");
  } else if (!strcmp(u->event, "turn.rebased")) {
    R.rebased += (uint64_t)u->counted;
    int n = field(d, e, "text", out, sizeof out);
    u->text.len = 0; if (n > 0) b_add(&u->text, out, (size_t)n);
    u->scanned = u->text.len;
  } else if (!strcmp(u->event, "turn.taken_over")) {
    R.taken_over += (uint64_t)u->counted;
    int bad = 0; const char *v = j_get(d, e, "kept_chars", &bad);
    if (v && strtoull(v, NULL, 10) < u->text.len) u->text.len = strtoull(v, NULL, 10);
    if (u->scanned > u->text.len) u->scanned = u->text.len;
  }
}

static void judge(user *u) { /* the whole text: our tag, then every token once and in order */
  int next = 0, tag = 0, wrong = 0;
  char *p = u->text.p, *e = p + u->text.len;
  while (p < e) {
    char *blank = memchr(p, ' ', (size_t)(e - p)), *end = blank ? blank : e;
    if (end > p && *p == '#') { tag = (size_t)(end - p - 1) == strlen(u->tag) && !memcmp(p + 1, u->tag, strlen(u->tag)); if (!tag) { R.wrong_tag++; wrong = 1; } }
    else if (end > p + 3 && !memcmp(p, "tok", 3) && isdigit((unsigned char)p[3])) {
      int q = atoi(p + 3);
      if (q < next) { R.repeated++; wrong = 1; } else if (q > next) { R.missing += (uint64_t)(q - next); wrong = 1; }
      if (q >= next) next = q + 1;
    } else if (end > p) { R.strange++; wrong = 1; }
    p = end + 1;
  }
  if (expect_n && next < expect_n) { R.missing += (uint64_t)(expect_n - next); wrong = 1; }
  if (expect_n && !tag && !wrong) { R.wrong_tag++; wrong = 1; }
  if (wrong) { u->failed = 1; snprintf(u->code, sizeof u->code, "wrong_tokens"); }
}

static void finish(user *u) {
  uint64_t now = now_ns();
  open_now--;
  if (u->done && u->counted) judge(u);
  if (u->counted && u->done && !u->failed) {
    R.ok++;
    h_add(&h_turn, (int64_t)(now - u->t0) / 1000);
    if (u->t_first) h_add(&h_first, (int64_t)(u->t_first - u->t0) / 1000);
    if (u->arrived && !u->cuts) {
      int64_t added = (int64_t)(u->t_first - u->t0) / 1000 - (u->sent_first - u->arrived);
      h_add(&h_added, added); h_add(&w_added, added); h_add(&w_first, (int64_t)(u->t_first - u->t0) / 1000);
      if (!u->resumed) h_add(&h_added_turn, (int64_t)(now - u->t0) / 1000 - ((int64_t)u->sent_last - u->arrived));
    }
  } else if (u->counted) { R.failed++; note(u->code[0] ? u->code : "unknown"); }
  if (u->close_after || u->failed) hang_up(u);
  u->state = THINKING;
  u->due = now + (uint64_t)(uniform(think_a, think_b) * 1e9);
  if (most_turns && u->turns >= most_turns) { u->due = UINT64_MAX; retired++; }
}

static int body(user *u, const char *p, size_t n, uint64_t ts) { /* 1: the connection was left */
  const char *e = p + n;
  if (u->status != 200) { if (u->data.len < 8192) b_add(&u->data, p, n); return 0; }
  while (p < e) {
    const char *nl = memchr(p, '\n', (size_t)(e - p));
    if (!nl) { b_add(&u->line, p, (size_t)(e - p)); return 0; }
    const char *l = p; size_t L = (size_t)(nl - p);
    if (u->line.len) { b_add(&u->line, p, L); l = u->line.p; L = u->line.len; }
    p = nl + 1;
    if (L == 0) {
      if (u->data.len) { u->data.p[u->data.len] = 0; event(u, ts); }
      u->data.len = 0; u->event[0] = u->id[0] = 0;
      if (u->break_at >= 0 && !u->broken && !u->done && !u->failed && u->turn_id[0] && (int)u->tokens >= u->break_at) {
        u->broken = 1; R.breaks += (uint64_t)u->counted;
        u->line.len = 0;
        go_away(u, uniform(0.05, 1.0));
        return 1;
      }
    } else if (L > 6 && !memcmp(l, "data: ", 6)) b_add(&u->data, l + 6, L - 6);
    else if (L > 7 && !memcmp(l, "event: ", 7)) { size_t k = L - 7 < 47 ? L - 7 : 47; memcpy(u->event, l + 7, k); u->event[k] = 0; }
    else if (L > 4 && !memcmp(l, "id: ", 4)) { size_t k = L - 4 < 31 ? L - 4 : 31; memcpy(u->id, l + 4, k); u->id[k] = 0; }
    u->line.len = 0;
  }
  return 0;
}

static void answered(user *u) { /* the response is over, in good order */
  if (u->status == 200) {
    if (u->done || u->failed) { finish(u); return; }
    if (++u->cuts > 5) { u->failed = 1; snprintf(u->code, sizeof u->code, "no_end"); finish(u); return; }
    R.cuts += (uint64_t)u->counted;
    if (u->close_after) hang_up(u);
    u->state = AWAY; u->due = now_ns() + 300000000ull;
    return;
  }
  char code[48];
  u->failed = 1;
  if (u->data.len == 0 || field(u->data.p, u->data.p + u->data.len, "code", code, sizeof code) < 0) code[0] = 0;
  snprintf(u->code, sizeof u->code, "%d %s", u->status, code);
  finish(u);
}

static void received(user *u, const char *p, size_t n, uint64_t ts) {
  R.bytes += n;
  buf rest = {0};
  if (u->state == SENT) {
    b_add(&u->in, p, n);
    char *he = memmem(u->in.p, u->in.len, "\r\n\r\n", 4);
    if (!he) return;
    u->status = u->in.len > 12 ? atoi(u->in.p + 9) : 0;
    for (char *l = strstr(u->in.p, "\r\n"); l && l < he; l = strstr(l + 2, "\r\n")) {
      if (!strncasecmp(l + 2, "content-length:", 15)) u->length = atol(l + 17);
      else if (!strncasecmp(l + 2, "transfer-encoding: chunked", 26)) u->chunked = 1;
      else if (!strncasecmp(l + 2, "connection: close", 17)) u->close_after = 1;
    }
    size_t off = (size_t)(he + 4 - u->in.p);
    u->state = BODY;
    if (u->in.len > off) b_add(&rest, u->in.p + off, u->in.len - off);
    u->in.len = 0;
    if (!rest.len) { if (u->length == 0) answered(u); return; }
    p = rest.p; n = rest.len;
  }
  if (!u->chunked) {
    u->got += (long)n;
    if (!body(u, p, n, ts) && u->length >= 0 && u->got >= u->length) answered(u);
    b_free(&rest);
    return;
  }
  const char *e = p + n;
  while (p < e) {
    if (u->chunk_state == 0) {
      while (p < e && *p != '\n') b_add(&u->in, p++, 1);
      if (p >= e) break;
      p++; u->chunk_left = strtol(u->in.len ? u->in.p : "0", NULL, 16); u->in.len = 0;
      u->chunk_state = u->chunk_left ? 1 : 3;
    } else if (u->chunk_state == 1) {
      size_t k = (size_t)(e - p) < (size_t)u->chunk_left ? (size_t)(e - p) : (size_t)u->chunk_left;
      if (body(u, p, k, ts)) break;
      p += k; u->chunk_left -= (long)k;
      if (!u->chunk_left) u->chunk_state = 2;
    } else if (u->chunk_state == 2) { if (*p++ == '\n') u->chunk_state = 0; }
    else { if (*p++ == '\n') { answered(u); break; } }
  }
  b_free(&rest);
}

/* ---- the run ---- */
static void report_progress(FILE *f, double t) {
  static uint64_t tokens_before, turns_before;
  int began = 0;
  for (int i = 0; i < C; i++) began += U[i].turns > 0;
  fprintf(f, "{\"t\":%.1f,\"users\":%d,\"open\":%d,\"turns_per_s\":%.2f,\"tokens_per_s\":%.0f,\"failed\":%llu,", t, began, open_now, (double)(all_turns - turns_before) / every_s, (double)(all_tokens - tokens_before) / every_s, (unsigned long long)R.failed);
  h_print(f, "added_first", &w_added, ","); h_print(f, "first_token", &w_first, "}\n"); fflush(f);
  memset(&w_added, 0, sizeof w_added); memset(&w_first, 0, sizeof w_first);
  tokens_before = all_tokens; turns_before = all_turns;
}

static void read_lines(const char *path, void (*each)(char *)) {
  FILE *f = fopen(path, "r"); char l[4096];
  if (!f) { perror(path); exit(2); }
  while (fgets(l, sizeof l, f)) { l[strcspn(l, "\r\n")] = 0; if (*l) each(l); }
  fclose(f);
}
static void add_user(char *l) {
  char *blank = strchr(l, ' ');
  if (!blank) return;
  *blank = 0;
  U = realloc(U, sizeof *U * (size_t)(n_lines + 1)); memset(&U[n_lines], 0, sizeof *U);
  U[n_lines].conversation = strdup(l); U[n_lines].token = strdup(blank + 1); n_lines++;
}
static void add_say(char *l) { if (strlen(l) > 900) l[900] = 0; says = realloc(says, sizeof *says * (size_t)(n_says + 1)); says[n_says++] = strdup(l); }

static void print_result(double wall) {
  struct rusage ru; getrusage(RUSAGE_SELF, &ru);
  double cpu = (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) + (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
#define P(name) printf("\"" #name "\":%llu,", (unsigned long long)R.name)
  printf("{\"users\":%d,\"open_peak\":%d,\"wall_s\":%.2f,\"cpu_s\":%.2f,\"counted_s\":%.2f,", C, open_peak, wall, cpu, seconds - warm);
  P(turns); P(ok); P(failed); P(held); P(tokens); P(missing); P(repeated); P(strange); P(wrong_tag); P(id_gaps); P(rebased); P(taken_over); P(breaks); P(cuts); P(resumed); P(reconnected); P(timeouts); P(connect); P(unfinished); P(bytes); P(events);
  printf("\"failures\":{");
  for (int i = 0; i < 48 && codes[i].n; i++) printf("%s\"%s\":%llu", i ? "," : "", codes[i].name, (unsigned long long)codes[i].n);
  printf("},");
  h_print(stdout, "accepted", &h_accept, ","); h_print(stdout, "first_token", &h_first, ","); h_print(stdout, "turn", &h_turn, ",");
  h_print(stdout, "added_first", &h_added, ","); h_print(stdout, "added_turn", &h_added_turn, ","); h_print(stdout, "token_delay", &h_delay, ","); h_print(stdout, "gap", &h_gap, "}\n");
}

int main(int ac, char **av) {
  const char *users_file = NULL, *says_file = NULL; int count = 0;
  for (int i = 1; i + 1 < ac; i += 2) {
    char *a = av[i], *v = av[i + 1];
#define O(s) (!strcmp(a, s))
    if O("--host") host = v; else if O("--port") port = atoi(v); else if O("--users") users_file = v; else if O("--says") says_file = v; else if O("--count") count = atoi(v);
    else if O("--think") { char *dash = strchr(v, '-'); think_a = atof(v); think_b = dash ? atof(dash + 1) : think_a; }
    else if O("--seconds") seconds = atof(v); else if O("--grace") grace = atof(v); else if O("--warm") warm = atof(v); else if O("--ramp") ramp = atof(v);
    else if O("--turns") most_turns = atoi(v); else if O("--timeout") timeout_s = atof(v); else if O("--expect") expect_n = atoi(v); else if O("--breaks") breaks = atoi(v); else if O("--hold") hold = atoi(v);
    else if O("--progress") progress = v; else if O("--every") every_s = atoi(v) > 0 ? atoi(v) : 5;
    else { fprintf(stderr, "unknown option %s\n", a); return 2; }
  }
  if (strncmp(host, "127.", 4)) { fprintf(stderr, "loopback only: for other hosts there is Locust\n"); return 2; }
  if (!users_file || !says_file) { fprintf(stderr, "--users and --says are needed\n"); return 2; }
  read_lines(users_file, add_user); read_lines(says_file, add_say);
  C = count && count < n_lines ? count : n_lines;
  if (!C || !n_says) { fprintf(stderr, "no users, or nothing to say\n"); return 2; }
  if (ramp < 0) ramp = think_b;
  signal(SIGPIPE, SIG_IGN); signal(SIGINT, sig); signal(SIGTERM, sig); raise_nofile(); prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
  rng ^= (uint64_t)getpid() * 2654435761u + now_ns();
  SA.sin_family = AF_INET; SA.sin_port = htons((uint16_t)port); inet_pton(AF_INET, host, &SA.sin_addr);
  ep = epoll_create1(0); T0 = now_ns();
  FILE *pf = progress ? fopen(progress, "w") : NULL;
  for (int i = 0; i < C; i++) { U[i].fd = -1; U[i].due = T0 + 1 + (uint64_t)(ramp * 1e9 * i / C); }
  uint64_t end = T0 + (uint64_t)(seconds * 1e9), last = end + (uint64_t)(grace * 1e9), next_progress = T0 + (uint64_t)every_s * 1000000000ull, next_scan = 0;
  static struct epoll_event evs[1024]; static char rb[1 << 17];
  while (!stop) {
    uint64_t now = now_ns();
    if (now > last || ((now > end || retired == C) && open_now == 0)) break;
    if (now >= next_scan) {
      next_scan = now + 2000000;
      for (int i = 0; i < C; i++) {
        user *u = &U[i];
        if (u->state == THINKING) { if (u->due <= now && now < end) speak(u); }
        else if (now > u->t0 && now - u->t0 > (uint64_t)(timeout_s * 1e9)) { R.timeouts += (uint64_t)u->counted; snprintf(u->code, sizeof u->code, "timeout"); u->failed = 1; finish(u); }
        else if (u->state == AWAY && u->due <= now) { if (u->turn_id[0]) come_back(u); else dial(u); }
      }
    }
    if (pf && now >= next_progress) { report_progress(pf, (double)(now - T0) / 1e9); next_progress += (uint64_t)every_s * 1000000000ull; }
    now = now_ns();
    struct timespec ts = {0, next_scan > now ? (long)(next_scan - now) : 0};
    int n = epoll_pwait2(ep, evs, 1024, &ts, NULL);
    for (int i = 0; i < n; i++) {
      user *u = evs[i].data.ptr;
      if (u->fd < 0) continue;
      if (u->state == CONNECTING) {
        int er = 0; socklen_t l = sizeof er; getsockopt(u->fd, SOL_SOCKET, SO_ERROR, &er, &l);
        if (er) { lost_connection(u); continue; }
        if (evs[i].events & EPOLLOUT) push(u);
        continue;
      }
      if (evs[i].events & EPOLLOUT && u->state == SENT && u->req_off < u->req.len) { push(u); continue; }
      for (;;) {
        ssize_t r = recv(u->fd, rb, sizeof rb, 0);
        if (r < 0 && errno == EAGAIN) break;
        if (u->state == THINKING || u->state == AWAY) { hang_up(u); break; }
        if (r <= 0) { lost_connection(u); break; }
        received(u, rb, (size_t)r, now_ns());
        if (u->fd < 0 || u->state != BODY || r < (ssize_t)sizeof rb) break;
      }
    }
  }
  if (hold) expect_n = 0;
  for (int i = 0; i < C; i++) if (U[i].state != THINKING && U[i].counted) {
    user *u = &U[i];
    if (hold && u->state == BODY && u->status == 200) {
      judge(u);
      if (u->failed) { R.failed++; note(u->code); continue; }
      R.ok++; R.held++;
      if (u->arrived) { h_add(&h_added, (int64_t)(u->t_first - u->t0) / 1000 - (u->sent_first - u->arrived)); h_add(&h_first, (int64_t)(u->t_first - u->t0) / 1000); }
    } else { R.unfinished++; R.failed++; note("unfinished"); }
  }
  if (pf) fclose(pf);
  print_result((double)(now_ns() - T0) / 1e9);
  return 0;
}
