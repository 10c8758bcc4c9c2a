/* Preloaded into a program, lets its n-th call of one kind fail, come short, or be its last.
 *
 *   SHIM_CALL  name of the call; all calls are counted without it
 *   SHIM_N     which one, from 1; none without it
 *   SHIM_ERR   EIO, ENOSPC, EINTR, EACCES, EAGAIN, SHORT (half of the bytes), or KILL
 *   SHIM_LOG   a file that gets the name of each call, one a line
 *
 * What the program says to people (stdout, stderr) is left alone. Linux and glibc. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static const char *wanted, *kind;
static long target, seen;
static int log_fd = -1, ready;

__attribute__((constructor)) static void prepare(void) {
    const char *number = getenv("SHIM_N"), *log = getenv("SHIM_LOG");
    wanted = getenv("SHIM_CALL");
    kind = getenv("SHIM_ERR");
    target = number ? atol(number) : 0;
    if (log) log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    ready = 1;
}

static int number_of(const char *name) {
    if (!strcmp(name, "ENOSPC")) return ENOSPC;
    if (!strcmp(name, "EINTR")) return EINTR;
    if (!strcmp(name, "EACCES")) return EACCES;
    if (!strcmp(name, "EAGAIN")) return EAGAIN;
    return EIO;
}

/* Whether this call is the one: 0 no, 1 it fails, 2 it comes short. */
static int hit(const char *name) {
    if (!ready) return 0;
    if (log_fd >= 0) {
        char line[32];
        size_t length = strlen(name);
        memcpy(line, name, length);
        line[length] = '\n';
        syscall(SYS_write, log_fd, line, length + 1);
    }
    if (wanted && strcmp(wanted, name)) return 0;
    if (!target || __sync_add_and_fetch(&seen, 1) != target || !kind) return 0;
    if (!strcmp(kind, "KILL")) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
    if (!strcmp(kind, "SHORT")) return 2;
    errno = number_of(kind);
    return 1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define HOOK(result, name, parameters, arguments, failure) \
    result name parameters { \
        REAL(name); \
        if (hit(#name) == 1) return failure; \
        return real arguments; \
    }

/* Reads and writes: a short one does half, and at least one byte. */
#define TRANSFER(name, parameters, arguments) \
    ssize_t name parameters { \
        REAL(name); \
        if (fd > 2) { \
            int how = hit(#name); \
            if (how == 1) return -1; \
            if (how == 2 && count > 1) count /= 2; \
        } \
        return real arguments; \
    }

TRANSFER(read, (int fd, void *bytes, size_t count), (fd, bytes, count))
TRANSFER(pread64, (int fd, void *bytes, size_t count, off64_t at), (fd, bytes, count, at))
TRANSFER(write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
TRANSFER(pwrite64, (int fd, const void *bytes, size_t count, off64_t at), (fd, bytes, count, at))

HOOK(int, fsync, (int fd), (fd), -1)
HOOK(int, fdatasync, (int fd), (fd), -1)
HOOK(int, ftruncate64, (int fd, off64_t length), (fd, length), -1)
HOOK(int, rename, (const char *from, const char *to), (from, to), -1)
HOOK(int, mkdir, (const char *path, mode_t mode), (path, mode), -1)
HOOK(int, unlink, (const char *path), (path), -1)
HOOK(int, unlinkat, (int at, const char *path, int flags), (at, path, flags), -1)
HOOK(int, rmdir, (const char *path), (path), -1)
HOOK(int, link, (const char *from, const char *to), (from, to), -1)
HOOK(int, flock, (int fd, int how), (fd, how), -1)
HOOK(int, statx, (int at, const char *restrict path, int flags, unsigned mask, struct statx *restrict found),
     (at, path, flags, mask, found), -1)
HOOK(int, fstat64, (int fd, struct stat64 *found), (fd, found), -1)
HOOK(DIR *, opendir, (const char *path), (path), NULL)
HOOK(DIR *, fdopendir, (int fd), (fd), NULL)
HOOK(struct dirent64 *, readdir64, (DIR *folder), (folder), NULL)
HOOK(char *, realpath, (const char *restrict path, char *restrict out), (path, out), NULL)

int open64(const char *path, int flags, ...) {
    REAL(open64);
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    if (hit("open64") == 1) return -1;
    return real(path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...) {
    REAL(openat64);
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list more;
        va_start(more, flags);
        mode = va_arg(more, mode_t);
        va_end(more);
    }
    if (hit("openat64") == 1) return -1;
    return real(at, path, flags, mode);
}

/* Gives its error as its result. */
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*work)(void *), void *with) {
    REAL(pthread_create);
    if (hit("pthread_create") == 1) return errno;
    return real(thread, how, work, with);
}
