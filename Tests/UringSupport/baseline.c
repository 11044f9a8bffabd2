#define _GNU_SOURCE
#include "baseline.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#define BATCH 64

static struct sockaddr_in loopback(uint16_t port) {
  struct sockaddr_in a;
  memset(&a, 0, sizeof a);
  a.sin_family = AF_INET;
  a.sin_port = htons(port);
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return a;
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t process_cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t thread_cpu_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int baseline_socket(uint16_t *port, int coalescing) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  int size = 4 << 20, one = 1;
  struct timeval patience = {.tv_usec = 50000};
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (coalescing) setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof one);
  struct sockaddr_in a = loopback(0);
  socklen_t length = sizeof a;
  if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || getsockname(fd, (struct sockaddr *)&a, &length) != 0) {
    close(fd);
    return -1;
  }
  *port = ntohs(a.sin_port);
  return fd;
}

void baseline_close(int fd) { close(fd); }

uint64_t baseline_send(int fd, uint16_t port, int mode, int bytes, long pause_ns, int group, volatile int *stop) {
  static _Thread_local char buffer[BATCH * 1500];
  struct sockaddr_in to = loopback(port);
  int train = 65000 / bytes < BATCH ? 65000 / bytes : BATCH;
  if (group > 0 && group < train) train = group;
  int batch = group > 0 && group < BATCH ? group : BATCH;
  uint64_t sent = 0, due = now_ns();
  struct mmsghdr messages[BATCH];
  struct iovec vectors[BATCH];
  char control[CMSG_SPACE(sizeof(uint16_t))];
  while (!*stop) {
    int n = mode == BASELINE_SINGLE ? 1 : mode == BASELINE_MMSG ? batch : train;
    for (int i = 0; i < n; i++) {
      uint64_t number = sent + (uint64_t)i;
      memcpy(buffer + (size_t)i * (size_t)bytes, &number, sizeof number);
    }
    if (mode == BASELINE_SINGLE) {
      if (sendto(fd, buffer, (size_t)bytes, 0, (struct sockaddr *)&to, sizeof to) < 0) continue;
      sent++;
    } else if (mode == BASELINE_MMSG) {
      memset(messages, 0, sizeof messages);
      for (int i = 0; i < n; i++) {
        vectors[i] = (struct iovec){buffer + (size_t)i * (size_t)bytes, (size_t)bytes};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &vectors[i], .msg_iovlen = 1};
      }
      int done = sendmmsg(fd, messages, (unsigned)n, 0);
      if (done > 0) sent += (uint64_t)done;
    } else {
      struct iovec vector = {buffer, (size_t)n * (size_t)bytes};
      struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &vector, .msg_iovlen = 1,
                         .msg_control = control, .msg_controllen = sizeof control};
      struct cmsghdr *c = CMSG_FIRSTHDR(&m);
      c->cmsg_level = SOL_UDP;
      c->cmsg_type = UDP_SEGMENT;
      c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
      uint16_t segment = (uint16_t)bytes;
      memcpy(CMSG_DATA(c), &segment, sizeof segment);
      if (sendmsg(fd, &m, 0) < 0) continue;
      sent += (uint64_t)n;
    }
    if (pause_ns > 0) {
      due += (uint64_t)pause_ns;
      struct timespec t = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
      clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    }
  }
  return sent;
}

// recvmsg, looking for up to look_ns before it sleeps.
static ssize_t receive_looking(int fd, struct msghdr *m, long look_ns) {
  if (look_ns > 0) {
    size_t name = m->msg_namelen, control = m->msg_controllen;
    uint64_t end = now_ns() + (uint64_t)look_ns;
    do {
      ssize_t n = recvmsg(fd, m, MSG_DONTWAIT);
      if (n >= 0) return n;
      m->msg_namelen = (socklen_t)name;
      m->msg_controllen = control;
    } while (now_ns() < end);
  }
  return recvmsg(fd, m, 0);
}

void baseline_receive(int fd, int mode, int bytes, long look_ns, volatile uint64_t *count, volatile int *stop) {
  static _Thread_local char buffer[BATCH * 2048];
  struct mmsghdr messages[BATCH];
  struct iovec vectors[BATCH];
  struct sockaddr_in names[BATCH];
  char control[256];
  volatile uint64_t sum = 0;
  while (!*stop) {
    if (mode == BASELINE_SINGLE) {
      socklen_t length = sizeof names[0];
      ssize_t n = recvfrom(fd, buffer, 2048, 0, (struct sockaddr *)&names[0], &length);
      if (n <= 0) continue;
      sum += *(uint64_t *)buffer;
      *count += 1;
    } else if (mode == BASELINE_MMSG) {
      memset(messages, 0, sizeof messages);
      for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){buffer + i * 2048, 2048};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &names[i], .msg_namelen = sizeof names[i], .msg_iov = &vectors[i], .msg_iovlen = 1};
      }
      int n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
      if (n <= 0) continue;
      for (int i = 0; i < n; i++) sum += *(uint64_t *)(buffer + i * 2048);
      *count += (uint64_t)n;
    } else {
      struct iovec vector = {buffer, sizeof buffer};
      struct msghdr m = {.msg_name = &names[0], .msg_namelen = sizeof names[0], .msg_iov = &vector, .msg_iovlen = 1,
                         .msg_control = control, .msg_controllen = sizeof control};
      ssize_t n = receive_looking(fd, &m, look_ns);
      if (n <= 0) continue;
      int segment = (int)n;
      for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) memcpy(&segment, CMSG_DATA(c), sizeof segment);
      for (ssize_t at = 0; at < n; at += segment) {
        sum += *(uint64_t *)(buffer + at);
        *count += 1;
      }
    }
  }
  (void)bytes;
}

void baseline_echo(int fd, volatile int *stop) {
  char buffer[2048];
  while (!*stop) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);
    if (n > 0) sendto(fd, buffer, (size_t)n, 0, (struct sockaddr *)&from, length);
  }
}

int baseline_ping(int fd, uint16_t port, int bytes, uint32_t *times, int count) {
  char buffer[2048];
  memset(buffer, 1, sizeof buffer);
  struct sockaddr_in to = loopback(port);
  int done = 0;
  for (int i = 0; i < count; i++) {
    uint64_t begin = now_ns();
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    if (sendto(fd, buffer, (size_t)bytes, 0, (struct sockaddr *)&to, sizeof to) < 0) continue;
    if (recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length) <= 0) continue;
    times[done++] = (uint32_t)(now_ns() - begin);
  }
  return done;
}
