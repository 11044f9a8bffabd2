#define _GNU_SOURCE
#include "CNamespace.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int cn_current(void) {
  int descriptor = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  return descriptor < 0 ? -errno : descriptor;
}

int cn_enter(int descriptor) { return setns(descriptor, CLONE_NEWNET) ? -errno : 0; }

static void set_address(struct ifreq *request, uint32_t address) {
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
  memcpy(&request->ifr_addr, &name, sizeof name);
}

static int set_up(int control, const char *name, int queue) {
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (queue > 0) {
    request.ifr_qlen = queue;
    if (ioctl(control, SIOCSIFTXQLEN, &request)) return -errno;
  }
  if (ioctl(control, SIOCGIFFLAGS, &request)) return -errno;
  request.ifr_flags |= IFF_UP | IFF_RUNNING;
  return ioctl(control, SIOCSIFFLAGS, &request) ? -errno : 0;
}

static int configure(const char *name, uint32_t address, int prefix, int mtu, int *out_tun) {
  int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (tun < 0) return -errno;
  int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  int error = control < 0 ? -errno : 0;
  struct ifreq request = {0};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (!error && ioctl(tun, TUNSETIFF, &request)) error = -errno;
  if (!error) error = set_up(control, "lo", 0);
  if (!error) {
    set_address(&request, address);
    if (ioctl(control, SIOCSIFADDR, &request)) error = -errno;
  }
  if (!error) {
    set_address(&request, prefix ? ~0u << (32 - prefix) : 0);
    if (ioctl(control, SIOCSIFNETMASK, &request)) error = -errno;
  }
  if (!error) {
    request.ifr_mtu = mtu;
    if (ioctl(control, SIOCSIFMTU, &request)) error = -errno;
  }
  // The device drops what the bench has not read yet: let it hold a whole block.
  if (!error) error = set_up(control, name, 20000);
  if (control >= 0) close(control);
  if (error) {
    close(tun);
    return error;
  }
  *out_tun = tun;
  return 0;
}

int cn_make_site(const char *name, uint32_t address, int prefix, int mtu, int *out_namespace, int *out_tun) {
  int home = cn_current();
  if (home < 0) return home;
  int error = unshare(CLONE_NEWNET) ? -errno : 0;
  if (error) {
    close(home);
    return error;
  }
  int made = cn_current();
  error = made < 0 ? made : configure(name, address, prefix, mtu, out_tun);
  int back = cn_enter(home);
  close(home);
  if (!error) error = back;
  if (error && made >= 0) close(made);
  if (!error) *out_namespace = made;
  return error;
}

int cn_wait(struct pollfd *descriptors, int count, int64_t nanoseconds) {
  struct timespec timeout = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  int ready = ppoll(descriptors, (nfds_t)count, nanoseconds < 0 ? NULL : &timeout, NULL);
  return ready < 0 ? -errno : ready;
}

int cn_realtime(int priority) {
  struct sched_param parameters = {.sched_priority = priority};
  return sched_setscheduler(0, SCHED_RR, &parameters) ? -errno : 0;
}

static int widen(int descriptor, int bytes) {
  int type = 0;
  socklen_t length = sizeof type;
  if (getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &length) || type != SOCK_DGRAM) return 0;
  if (getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &type, &length) || (type != AF_INET && type != AF_INET6)) return 0;
  return setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) == 0;
}

int cn_widen_udp(int pid, int bytes) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd", pid);
  int process = (int)syscall(SYS_pidfd_open, pid, 0);
  if (process < 0) return -errno;
  DIR *folder = opendir(path);
  int error = folder ? 0 : -errno, widened = 0;
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    if (entry->d_name[0] == '.') continue;
    int copy = (int)syscall(SYS_pidfd_getfd, process, atoi(entry->d_name), 0);
    if (copy < 0) continue;
    widened += widen(copy, bytes);
    close(copy);
  }
  if (folder) closedir(folder);
  close(process);
  return error ? error : widened;
}
