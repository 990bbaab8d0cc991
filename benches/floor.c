/* The floor of `tfo-agent once` with a changed key: the same file and kernel work with both fsyncs, and nothing else.
 *
 * floor FILE KEY KEY: a temporary file beside FILE, 0600, written, fsynced, renamed, its directory fsynced; one write(2) of both keys to
 * the kernel, one read back and compared.  benches/once.rs compiles it. */
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char KEY[] = "/proc/sys/net/ipv4/tcp_fastopen_key";

static int put(const char *path, int flags, const char *text, int sync)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);
	size_t length = strlen(text);
	if (fd < 0 || write(fd, text, length) != (ssize_t)length || (sync && fsync(fd)) || close(fd))
		return -1;
	return 0;
}

int main(int argc, char **argv)
{
	char tmp[4096], dir[4096], keys[80], text[128], back[80];
	int fd;
	ssize_t length;
	if (argc != 4)
		return 2;
	umask(077);
	snprintf(keys, sizeof keys, "%s,%s", argv[2], argv[3]);
	snprintf(text, sizeof text, "net.ipv4.tcp_fastopen_key = %s\n", keys);
	snprintf(tmp, sizeof tmp, "%s.tmp", argv[1]);
	snprintf(dir, sizeof dir, "%s", argv[1]);
	if (put(tmp, O_WRONLY | O_CREAT | O_TRUNC, text, 1) || rename(tmp, argv[1]))
		return 1;
	fd = open(dirname(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync(fd) || close(fd))
		return 1;
	if (put(KEY, O_WRONLY, keys, 0))
		return 1;
	fd = open(KEY, O_RDONLY | O_CLOEXEC);
	length = read(fd, back, sizeof back);
	return length == (ssize_t)strlen(keys) + 1 && !memcmp(back, keys, strlen(keys)) ? 0 : 1;
}
