/* sse_load.c - opens N concurrent SSE streams and checks and times every token. One thread, epoll, no dependencies.
 *
 *   gcc -O2 -o sse_load sse_load.c -lm
 *   ./sse_load --url http://127.0.0.1:9100/v1/chat/completions -c 100 -n 1000 \
 *       --body '{"model":"mock-ttft200-n100-itl20-st1","stream":true,"messages":[{"role":"user","content":"hi #tag:{tag}#"}]}' --expect 100
 *
 *  --url U            where to POST                       --get            send GET, no body
 *  --body B | @file   the body; {tag} {i} {slot} and {s} (= i modulo --sessions K) are filled in for each stream
 *  --header 'K: V'    more request headers (the same fillings)
 *  -c N               streams open at once                -n N             stop after N streams
 *  -d S               or start new ones for S seconds     --warm S         leave streams started in the first S seconds out of the figures
 *  --ramp MS          spread the first N starts over this time (default 0)
 *  --path P           where the token's text is in each event's JSON (default choices.0.delta.content); '' = the data is the text
 *  --event E          only events with this name carry tokens (default: every event)
 *  --done T           the data, or 'event:NAME', that ends a good stream (default [DONE]; 'eof': a clean end of the body)
 *  --expect N         tokens a good stream must have (0: do not check)
 *  --timeout S        per stream (default 60)             --keepalive      reuse connections
 *  --paths FILE       paths to take in turn, one a line, in place of the URL's; a bearer token may follow behind a blank
 *  --hard S           end after S seconds whatever is still open (counted as unfinished, not as failed)
 *  --abort K          close the connection after K tokens (to measure how a relay passes a cancel on)
 *  --plain P          the reply is one JSON document, the text is at path P (non-streamed call)
 *  --label L          printed back
 *
 * Prints one JSON object, latencies in ms. one_way: mock's send stamp ("tok17@us") to this client's recv, the whole path's
 * delay for each token; ttft: from before connect() (or the send on a reused connection) to the first content token;
 * request_path: from the same start to the request's arrival at the mock; ttft_overhead: request_path + the first token's one_way,
 * that is the TTFT less the time that the mock itself took (its timers' lateness included), in us resolution;
 * gap: between consecutive content events of one stream. seq_missing/seq_dup/wrong_tag/garbage must all be 0.
 */
#include "common.h"
#include <sys/prctl.h>

typedef struct {
  int fd, state; /* 0 idle, 1 connecting, 2 sent, 3 body */
  int slot, status, chunked, counted, done, next_tok, reused, events, err_event, connhdr_close; long clen, got; long chunk_left; int chunk_st;
  uint64_t t0, t_first, t_last; char tag[32]; char evname[48]; buf in, line, data, tok; int tag_ok, bad, tokens;
  uint64_t start_at; buf req; size_t req_off;
} strm;
static strm *S; static int C = 1, ka, sessions = 1, ramp, timeout_s = 60, expect_n, abort_k = -1, is_get; static long N = -1; static double D = -1, warm, hard;
static char **plist, **tlist; static int np; static const char *path = "choices.0.delta.content", *evn, *done_t = "[DONE]", *plain, *label = "", *body_t = ""; static char host[128] = "127.0.0.1", upath[512] = "/"; static int port = 80;
static const char *hdrs[32]; static int nh;
static struct { uint64_t started, ok, fail, tokens, events, missing, dup, garbage, wrong_tag, no_tag, bad_json, err_events, timeouts, conn_err, eof_early, short_tok, http_err, aborted, bytes; } R;
static int codes[600]; static hist h_req, h_over, h_ttfb, h_ttft, h_gap, h_one, h_one1, h_total, h_batch; static uint64_t T0, T_end, tok_first, tok_last; static int ep, active, peak; static volatile int stop; static struct sockaddr_in SA; static long launched;

static void fill(buf *o, const char *t, strm *s, long i) {
  char x[32];
  for (; *t;) {
    if (*t == '{') {
      if (!strncmp(t, "{tag}", 5)) { b_str(o, s->tag); t += 5; continue; }
      if (!strncmp(t, "{i}", 3)) { sprintf(x, "%ld", i); b_str(o, x); t += 3; continue; }
      if (!strncmp(t, "{s}", 3)) { sprintf(x, "%ld", i % sessions); b_str(o, x); t += 3; continue; }
      if (!strncmp(t, "{slot}", 6)) { sprintf(x, "%d", s->slot); b_str(o, x); t += 6; continue; }
    }
    b_add(o, t++, 1);
  }
}
static void mod(strm *s, int out) { struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = s}; epoll_ctl(ep, EPOLL_CTL_MOD, s->fd, &e); }
static void finish(strm *s, int ok, int close_it);
static void push(strm *s) {
  while (s->req_off < s->req.len) { ssize_t w = send(s->fd, s->req.p + s->req_off, s->req.len - s->req_off, MSG_NOSIGNAL); if (w < 0) { if (errno == EAGAIN) { mod(s, 1); return; } R.conn_err += s->counted; finish(s, 0, 1); return; } s->req_off += w; }
  mod(s, 0); s->state = 2;
}
static void start(strm *s) {
  uint64_t now = now_ns(); long i = launched++;
  s->counted = (now - T0) >= (uint64_t)(warm * 1e9); R.started += s->counted;
  sprintf(s->tag, "g%ldx%d", i, s->slot);
  s->status = 0; s->chunked = 0; s->clen = -1; s->got = 0; s->done = 0; s->next_tok = 0; s->events = 0; s->err_event = 0; s->chunk_left = 0; s->chunk_st = 0; s->tag_ok = -1; s->bad = 0; s->tokens = 0; s->connhdr_close = 0;
  s->in.len = s->line.len = s->data.len = s->tok.len = s->req.len = 0; s->req_off = 0; s->evname[0] = 0; s->t_first = s->t_last = 0;
  buf b = {0}; b_need(&b, 1); b.p[0] = 0; if (!is_get) fill(&b, body_t, s, i); char h[1024];
  int k = snprintf(h, sizeof h, "%s %s HTTP/1.1\r\nhost: %s:%d\r\naccept: %s\r\n", is_get ? "GET" : "POST", np ? plist[i % np] : upath, host, port, plain ? "application/json" : "text/event-stream"); b_add(&s->req, h, k);
  if (!is_get) b_add(&s->req, h, sprintf(h, "content-type: application/json\r\ncontent-length: %zu\r\n", b.len));
  if (!ka) b_str(&s->req, "connection: close\r\n");
  if (np && tlist[i % np]) { b_str(&s->req, "authorization: Bearer "); b_str(&s->req, tlist[i % np]); b_str(&s->req, "\r\n"); }
  for (int j = 0; j < nh; j++) { fill(&s->req, hdrs[j], s, i); b_str(&s->req, "\r\n"); }
  b_str(&s->req, "\r\n"); b_add(&s->req, b.p, b.len); b_free(&b);
  active++; if (active > peak) peak = active;
  s->t0 = now_ns();
  if (s->fd >= 0) { s->reused = 1; push(s); return; }
  s->reused = 0; s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); int one = 1; setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s}; epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &e); s->state = 1;
  if (connect(s->fd, (void *)&SA, sizeof SA) && errno != EINPROGRESS) { R.conn_err += s->counted; finish(s, 0, 1); }
}
static int more(void) { if (stop) return 0; if (N >= 0 && launched >= N) return 0; if (D >= 0 && now_ns() - T0 > (uint64_t)(D * 1e9)) return 0; return N >= 0 || D >= 0; }
static void finish(strm *s, int ok, int close_it) {
  uint64_t now = now_ns();
  if (s->counted) {
    if (ok && expect_n && s->tokens != expect_n) { R.short_tok++; ok = 0; if (s->tokens < expect_n) R.missing += expect_n - s->tokens; }
    if (s->tag_ok == 0) { R.wrong_tag++; ok = 0; }
    if (ok && s->tag_ok < 0) R.no_tag++;
    if (ok) { R.ok++; h_add(&h_total, (now - s->t0) / 1000); } else R.fail++;
  }
  active--; s->state = 0;
  if (close_it || !ka || s->connhdr_close) { if (s->fd >= 0) close(s->fd); s->fd = -1; }
  s->start_at = more() ? now + (ok ? 0 : 20000000ull) : 0; /* a failed one is retried no faster than 50/s for each slot */
}
static void one_token(strm *s, const char *t, int n, uint64_t ts) { /* one word */
  if (n == 0) return;
  if (*t == '#') { char w[40]; int k = n - 1 < 39 ? n - 1 : 39; memcpy(w, t + 1, k); w[k] = 0; s->tag_ok = !strcmp(w, s->tag); return; }
  if (n < 4 || memcmp(t, "tok", 3)) { if (s->counted) R.garbage++; return; }
  int k = 3, q = 0; while (k < n && isdigit((unsigned char)t[k])) q = q * 10 + t[k++] - '0';
  if (s->counted) {
    if (q < s->next_tok) R.dup++; else if (q > s->next_tok) R.missing += q - s->next_tok;
    R.tokens++; if (!tok_first) tok_first = ts; tok_last = ts;
    if (k < n && t[k] == '@') { uint64_t us = strtoull(t + k + 1, NULL, 10); int64_t d = (int64_t)(ts / 1000) - (int64_t)us; h_add(&h_one, d); if (q == 0) { h_add(&h_one1, d); const char *sl = memchr(t + k, '/', n - k); if (sl) { int64_t rq = (int64_t)strtoull(sl + 1, NULL, 10) - (int64_t)(s->t0 / 1000); h_add(&h_req, rq); h_add(&h_over, rq + d); } } }
  }
  if (q >= s->next_tok) s->next_tok = q + 1;
  s->tokens++;
}
static void text(strm *s, const char *t, int n, uint64_t ts) {
  const char *e = t + n;
  while (t < e) {
    const char *sp = memchr(t, ' ', e - t);
    if (!sp) { b_add(&s->tok, t, e - t); return; }
    if (s->tok.len) { b_add(&s->tok, t, sp - t); one_token(s, s->tok.p, s->tok.len, ts); s->tok.len = 0; } else one_token(s, t, sp - t, ts);
    t = sp + 1;
  }
}
static int dispatch(strm *s, uint64_t ts) { /* one SSE event; returns 1 where the stream is finished */
  R.events++; s->events++;
  const char *d = s->data.p, *e = d + s->data.len; char out[8192];
  if (!strncmp(done_t, "event:", 6)) { if (!strcmp(done_t + 6, s->evname)) s->done = 1; }
  else if (s->data.len == strlen(done_t) && !memcmp(d, done_t, s->data.len)) { s->done = 1; return 0; }
  if (!strcmp(s->evname, "error")) { s->err_event = 1; if (s->counted) R.err_events++; return 0; }
  if (evn && strcmp(evn, s->evname)) return 0;
  if (s->done) return 0;
  int n;
  if (!*path) { n = s->data.len < sizeof out ? (int)s->data.len : (int)sizeof out; memcpy(out, d, n); }
  else {
    int bad = 0; const char *v = j_get(d, e, path, &bad);
    if (bad || (v && *v == '"' && j_str(v, e, out, sizeof out) < 0)) { if (s->counted) R.bad_json++; s->bad = 1; return 0; }
    if (!v) { int b2 = 0; if (j_get(d, e, "error", &b2)) { s->err_event = 1; if (s->counted) R.err_events++; } return 0; }
    n = j_str(v, e, out, sizeof out); if (n <= 0) return 0;
  }
  int had = s->tokens || s->tok.len; 
  if (!had) { s->t_first = ts; if (s->counted) h_add(&h_ttft, (ts - s->t0) / 1000); }
  else if (s->counted) h_add(&h_gap, (ts - s->t_last) / 1000);
  s->t_last = ts; text(s, out, n, ts);
  return abort_k >= 0 && s->tokens >= abort_k;
}
static int body(strm *s, const char *p, size_t n, uint64_t ts) { /* decoded bytes */
  if (plain) { b_add(&s->data, p, n); return 0; }
  const char *e = p + n;
  while (p < e) {
    const char *nl = memchr(p, '\n', e - p); if (!nl) { b_add(&s->line, p, e - p); return 0; }
    const char *l = p; size_t L = nl - p; if (s->line.len) { b_add(&s->line, p, L); l = s->line.p; L = s->line.len; } p = nl + 1;
    if (L && l[L - 1] == '\r') L--;
    if (L == 0) { if (s->data.len || s->evname[0]) { b_need(&s->data, 1); s->data.p[s->data.len] = 0; int r = dispatch(s, ts); s->data.len = 0; s->evname[0] = 0; if (r) return 1; } }
    else if (L >= 5 && !memcmp(l, "data:", 5)) { size_t o = 5; if (o < L && l[o] == ' ') o++; if (s->data.len) b_add(&s->data, "\n", 1); b_add(&s->data, l + o, L - o); }
    else if (L >= 6 && !memcmp(l, "event:", 6)) { size_t o = 6; if (o < L && l[o] == ' ') o++; size_t k = L - o < 47 ? L - o : 47; memcpy(s->evname, l + o, k); s->evname[k] = 0; }
    s->line.len = 0;
  }
  return 0;
}
static void ended(strm *s, int clean, int close_it) {
  if (s->tok.len) { one_token(s, s->tok.p, s->tok.len, now_ns()); s->tok.len = 0; }
  int ok = s->status == 200 && !s->bad && !s->err_event;
  if (plain && s->status == 200) {
    int bad = 0; const char *v = j_get(s->data.p ? s->data.p : "", s->data.p + s->data.len, plain, &bad); static char big[1 << 20]; int n = v ? j_str(v, s->data.p + s->data.len, big, sizeof big) : -1;
    uint64_t ts = now_ns(); if (n < 0) { R.bad_json += s->counted; ok = 0; } else { if (s->counted) h_add(&h_ttft, (ts - s->t0) / 1000); text(s, big, n, ts); if (s->tok.len) { one_token(s, s->tok.p, s->tok.len, ts); s->tok.len = 0; } } s->done = 1;
  }
  if (!strcmp(done_t, "eof") && clean) s->done = 1;
  if (s->status == 200 && !s->done) { ok = 0; if (s->counted) R.eof_early++; }
  finish(s, ok, close_it || !clean);
}
static void on_data(strm *s, const char *p, size_t n, uint64_t ts) {
  R.bytes += n;
  if (s->state == 2) {
    b_add(&s->in, p, n); char *he = memmem(s->in.p, s->in.len, "\r\n\r\n", 4); if (!he) return;
    s->status = atoi(s->in.p + 9);
    for (char *l = strstr(s->in.p, "\r\n"); l && l < he; l = strstr(l + 2, "\r\n")) {
      if (!strncasecmp(l + 2, "content-length:", 15)) s->clen = atol(l + 17);
      else if (!strncasecmp(l + 2, "transfer-encoding: chunked", 26)) s->chunked = 1;
      else if (!strncasecmp(l + 2, "connection: close", 17)) s->connhdr_close = 1;
    }
    if (s->status == 100) { b_shift(&s->in, he + 4 - s->in.p); return; }
    if (s->counted) { codes[s->status > 0 && s->status < 600 ? s->status : 0]++; h_add(&h_ttfb, (ts - s->t0) / 1000); if (s->status != 200) R.http_err++; }
    s->state = 3; size_t off = he + 4 - s->in.p, rest = s->in.len - off; char *copy = NULL; if (rest) { copy = malloc(rest); memcpy(copy, s->in.p + off, rest); } s->in.len = 0;
    if (rest) { R.bytes -= rest; on_data(s, copy, rest, ts); free(copy); }
    else if (s->clen == 0) ended(s, 1, 0);
    return;
  }
  if (!s->chunked) {
    s->got += n; int r = body(s, p, n, ts); if (r) { R.aborted += s->counted; s->status = 200; finish(s, 1, 1); return; }
    if (s->clen >= 0 && s->got >= s->clen) ended(s, 1, 0);
    return;
  }
  const char *e = p + n;
  while (p < e) {
    if (s->chunk_st == 0) { /* size line */
      while (p < e && *p != '\n') { b_add(&s->in, p, 1); p++; }
      if (p >= e) return;
      p++; s->chunk_left = strtol(s->in.len ? s->in.p : "0", NULL, 16); s->in.len = 0;
      s->chunk_st = s->chunk_left ? 1 : 3; continue;
    }
    if (s->chunk_st == 1) { size_t k = (size_t)(e - p) < (size_t)s->chunk_left ? (size_t)(e - p) : (size_t)s->chunk_left; int r = body(s, p, k, ts); if (r) { R.aborted += s->counted; int x = expect_n; expect_n = 0; finish(s, 1, 1); expect_n = x; return; } p += k; s->chunk_left -= k; if (!s->chunk_left) s->chunk_st = 2; continue; }
    if (s->chunk_st == 2) { if (*p == '\n') s->chunk_st = 0; p++; continue; }
    if (*p == '\n') { ended(s, 1, 0); return; } p++; /* after the last chunk */
  }
}
static void sig(int x) { (void)x; stop = 1; }
int main(int ac, char **av) {
  for (int i = 1; i < ac; i++) {
    char *a = av[i], *v = i + 1 < ac ? av[i + 1] : "";
#define O(s) (!strcmp(a, s) && ++i)
    if (O("--url")) { if (sscanf(v, "http://%127[^:/]:%d%511s", host, &port, upath) < 2) { fprintf(stderr, "url must be http://IP:PORT/path\n"); return 2; } }
    else if (O("--body")) { if (*v == '@') { FILE *f = fopen(v + 1, "r"); if (!f) { perror(v + 1); return 2; } static char t[1 << 20]; t[fread(t, 1, sizeof t - 1, f)] = 0; body_t = t; } else body_t = v; }
    else if (O("--header")) hdrs[nh++ & 31] = v; else if (O("-c")) C = atoi(v); else if (O("-n")) N = atol(v); else if (O("-d")) D = atof(v); else if (O("--warm")) warm = atof(v);
    else if (O("--ramp")) ramp = atoi(v); else if (O("--path")) path = v; else if (O("--event")) evn = v; else if (O("--done")) done_t = v; else if (O("--expect")) expect_n = atoi(v);
    else if (O("--timeout")) timeout_s = atoi(v); else if (O("--abort")) abort_k = atoi(v); else if (O("--plain")) plain = v; else if (O("--label")) label = v; else if (O("--hard")) hard = atof(v);
    else if (O("--paths")) { FILE *f = fopen(v, "r"); char l[4096]; if (!f) { perror(v); return 2; } while (fgets(l, sizeof l, f)) { l[strcspn(l, "\r\n")] = 0; if (*l) { char *t = strchr(l, ' '); if (t) *t++ = 0; plist = realloc(plist, sizeof(char *) * (np + 1)); tlist = realloc(tlist, sizeof(char *) * (np + 1)); plist[np] = strdup(l); tlist[np++] = t ? strdup(t) : 0; } } fclose(f); } else if (O("--sessions")) sessions = atoi(v) > 0 ? atoi(v) : 1;
    else if (!strcmp(a, "--keepalive")) ka = 1; else if (!strcmp(a, "--get")) is_get = 1;
    else { fprintf(stderr, "unknown option %s\n", a); return 2; }
  }
  if (strcmp(host, "localhost") == 0) strcpy(host, "127.0.0.1");
  if (strncmp(host, "127.", 4)) { fprintf(stderr, "loopback targets only\n"); return 2; }
  if (N < 0 && D < 0) N = C;
  signal(SIGPIPE, SIG_IGN); signal(SIGINT, sig); signal(SIGTERM, sig); raise_nofile(); prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
  SA.sin_family = AF_INET; SA.sin_port = htons(port); inet_pton(AF_INET, host, &SA.sin_addr);
  ep = epoll_create1(0); S = calloc(C, sizeof *S); T0 = now_ns(); uint64_t last_scan = T0;
  for (int i = 0; i < C; i++) { S[i].fd = -1; S[i].slot = i; S[i].start_at = T0 + 1 + (uint64_t)((double)ramp * 1e6 * i / C); }
  static struct epoll_event evs[1024]; static char rb[1 << 17]; int any = 1; int *q = malloc(sizeof(int) * C);
  while (any) {
    /* who has to start now? (C is at most some thousands: a scan each ms is cheap) */
    uint64_t now = now_ns(); static uint64_t next_scan; int nq = 0;
    if (now >= next_scan) {
      any = 0; uint64_t soonest = now + 100000000ull;
      for (int i = 0; i < C; i++) {
        if (S[i].state) { any = 1; continue; }
        if (!S[i].start_at) continue;
        if (S[i].start_at <= now) { S[i].start_at = 0; if (more()) q[nq++] = i; continue; }
        any = 1; if (S[i].start_at < soonest) soonest = S[i].start_at;
      }
      next_scan = soonest < now + 1000000 ? now + 1000000 : soonest;
      for (int i = 0; i < nq; i++) start(&S[q[i]]), any = 1;
      if (!any) break;
    }
    if (hard > 0 && now - T0 > (uint64_t)(hard * 1e9)) stop = 1;
    if (now - last_scan > 200000000ull) {
      last_scan = now;
      for (int i = 0; i < C; i++) if (S[i].state && now > S[i].t0 && now - S[i].t0 > (uint64_t)timeout_s * 1000000000ull) { R.timeouts += S[i].counted; finish(&S[i], 0, 1); }
      if (stop) break;
    }
    uint64_t w = next_scan > now ? next_scan - now : 0; if (w > 50000000) w = 50000000; struct timespec ts = {0, w};
    int n = epoll_pwait2(ep, evs, 1024, &ts, NULL); uint64_t b0 = now_ns(); int fin = 0;
    for (int i = 0; i < n; i++) {
      strm *s = evs[i].data.ptr; if (s->fd < 0) continue;
      if (s->state == 1) { int er = 0; socklen_t l = sizeof er; getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &er, &l); if (er) { R.conn_err += s->counted; finish(s, 0, 1); fin = 1; continue; } if (evs[i].events & EPOLLOUT) push(s); if (s->state != 2) continue; if (!(evs[i].events & EPOLLIN)) continue; }
      if (s->state == 1) continue;
      if (evs[i].events & EPOLLOUT && s->req_off < s->req.len) { push(s); continue; }
      for (;;) {
        int st = s->state; ssize_t r = recv(s->fd, rb, sizeof rb, 0); uint64_t ts2 = now_ns();
        if (r > 0) { if (!st) { if (ka) { close(s->fd); s->fd = -1; } break; } on_data(s, rb, r, ts2); if (!s->state) { fin = 1; break; } if (r < (ssize_t)sizeof rb) break; continue; }
        if (r < 0 && errno == EAGAIN) break;
        if (!st) { close(s->fd); s->fd = -1; break; }
        if (s->state == 3 && !s->chunked && s->clen < 0) ended(s, r == 0, 1);
        else if (s->state == 2) { R.conn_err += s->counted; finish(s, 0, 1); }
        else ended(s, 0, 1);
        fin = 1; break;
      }
    }
    if (n > 0) h_add(&h_batch, (now_ns() - b0) / 1000);
    if (fin) next_scan = 0;
  }
  int unfinished = 0; for (int i = 0; i < C; i++) if (S[i].state && S[i].counted) unfinished++;
  T_end = now_ns(); struct rusage ru; getrusage(RUSAGE_SELF, &ru); double wall = (T_end - T0) / 1e9, cpu = ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6, span = tok_last > tok_first ? (tok_last - tok_first) / 1e9 : 0;
  printf("{\"label\":\"%s\",\"concurrency\":%d,\"peak\":%d,\"started\":%llu,\"ok\":%llu,\"fail\":%llu,\"unfinished\":%d,\"wall_s\":%.3f,\"tokens\":%llu,\"tokens_per_s\":%.0f,\"events\":%llu,\"bytes\":%llu,\"client_cpu_s\":%.3f,\"client_cpu_pct\":%.1f,", label, C, peak, (unsigned long long)R.started, (unsigned long long)R.ok, (unsigned long long)R.fail, unfinished, wall, (unsigned long long)R.tokens, span ? R.tokens / span : 0, (unsigned long long)R.events, (unsigned long long)R.bytes, cpu, 100 * cpu / wall);
  printf("\"errors\":{\"http\":%llu,\"connect\":%llu,\"timeout\":%llu,\"eof_early\":%llu,\"short\":%llu,\"error_events\":%llu,\"bad_json\":%llu},\"seq_missing\":%llu,\"seq_dup\":%llu,\"wrong_tag\":%llu,\"no_tag\":%llu,\"garbage\":%llu,\"aborted\":%llu,\"codes\":{", (unsigned long long)R.http_err, (unsigned long long)R.conn_err, (unsigned long long)R.timeouts, (unsigned long long)R.eof_early, (unsigned long long)R.short_tok, (unsigned long long)R.err_events, (unsigned long long)R.bad_json, (unsigned long long)R.missing, (unsigned long long)R.dup, (unsigned long long)R.wrong_tag, (unsigned long long)R.no_tag, (unsigned long long)R.garbage, (unsigned long long)R.aborted);
  int f = 1; for (int i = 0; i < 600; i++) if (codes[i]) { printf("%s\"%d\":%d", f ? "" : ",", i, codes[i]); f = 0; }
  printf("},"); h_print(stdout, "ttfb", &h_ttfb, ","); h_print(stdout, "ttft", &h_ttft, ","); h_print(stdout, "gap", &h_gap, ","); h_print(stdout, "one_way", &h_one, ","); h_print(stdout, "one_way_first", &h_one1, ","); h_print(stdout, "request_path", &h_req, ","); h_print(stdout, "ttft_overhead", &h_over, ","); h_print(stdout, "total", &h_total, ","); h_print(stdout, "client_batch", &h_batch, "}\n");
  return 0;
}
