#define _GNU_SOURCE
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "UringSupport.h"

int thread_enter_private_network(int mtu) {
  if (unshare(CLONE_NEWNET) != 0) return errno;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  struct ifreq request;
  memset(&request, 0, sizeof request);
  strcpy(request.ifr_name, "lo");
  int error = 0;
  if (mtu > 0) {
    request.ifr_mtu = mtu;
    if (ioctl(fd, SIOCSIFMTU, &request) != 0) error = errno;
  }
  request.ifr_flags = IFF_UP;
  if (error == 0 && ioctl(fd, SIOCSIFFLAGS, &request) != 0) error = errno;
  close(fd);
  return error;
}
