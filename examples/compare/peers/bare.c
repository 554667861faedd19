/* The limit that the kernel sets: one thread, epoll, no checks, nothing that a server needs beside.
 *
 *   bare PORT      /echo: every message comes back; /pub: what is said there is sent to all on /sub, one send() each
 *
 * It reads whole frames (never fragments), unmasks them, and writes all that one read brought with one write. It does
 * not look at UTF-8, opcodes, reserved bits or lengths, has no deadlines, and does not answer pings. It listens on
 * loopback only. Build: cc -O3 -o bare bare.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum role { OPENING, ECHO, SUBSCRIBER, PUBLISHER };

struct bytes {
    unsigned char *data;
    size_t length, capacity;
};

struct connection {
    int socket;
    enum role role;
    struct bytes in, out; /* half a frame; what a short write left over */
    size_t sent;          /* of out */
    size_t place;         /* among the subscribers */
};

static unsigned char scratch[256 * 1024 + 16];
static struct connection **subscribers;
static size_t subscriber_count;

static void append(struct bytes *to, const unsigned char *data, size_t length) {
    if (to->length + length > to->capacity) {
        to->capacity = (to->length + length) * 2;
        if (!(to->data = realloc(to->data, to->capacity))) abort();
    }
    memcpy(to->data + to->length, data, length);
    to->length += length;
}

static void release(struct bytes *bytes) {
    free(bytes->data);
    memset(bytes, 0, sizeof *bytes);
}

/* --- SHA-1 and base64, for Sec-WebSocket-Accept ------------------------------------------------------------------- */

static uint32_t rotate(uint32_t value, int by) { return value << by | value >> (32 - by); }

static void sha1_block(uint32_t state[5], const unsigned char *block) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
        uint32_t next = rotate(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static void accept_key(const char *key, char answer[29]) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char text[128] = {0}, digest[21] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    text[60] = 0x80;
    text[126] = (60 * 8) >> 8, text[127] = (60 * 8) & 255;
    sha1_block(state, text);
    sha1_block(state, text + 64);
    for (int i = 0; i < 20; i++) digest[i] = state[i / 4] >> (24 - 8 * (i % 4));
    for (int i = 0; i < 7; i++) {
        uint32_t group = digest[3 * i] << 16 | digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++) answer[4 * i + j] = alphabet[group >> (18 - 6 * j) & 63];
    }
    answer[27] = '=', answer[28] = 0;
}

/* --- connections ------------------------------------------------------------------------------------------------- */

static void drop(struct connection *connection) {
    if (connection->role == SUBSCRIBER) {
        subscribers[connection->place] = subscribers[--subscriber_count];
        subscribers[connection->place]->place = connection->place;
    }
    close(connection->socket);
    release(&connection->in);
    release(&connection->out);
    free(connection);
}

static void put(struct connection *to, const unsigned char *data, size_t length) {
    if (to->out.length == 0) {
        ssize_t written = send(to->socket, data, length, MSG_NOSIGNAL);
        if (written == (ssize_t)length) return;
        if (written < 0 && errno != EAGAIN) return; /* the next read will tell */
        if (written > 0) data += written, length -= written;
    }
    append(&to->out, data, length);
}

static void put_rest(struct connection *to) {
    ssize_t written = send(to->socket, to->out.data + to->sent, to->out.length - to->sent, MSG_NOSIGNAL);
    if (written > 0) to->sent += written;
    if (to->sent == to->out.length) to->out.length = to->sent = 0;
}

/* Answers the opening handshake; 0 if its head is not whole yet, else the head's length. */
static size_t open_up(struct connection *connection, unsigned char *head, size_t length) {
    unsigned char *end = memmem(head, length, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    char *key = strcasestr((char *)head, "\r\nSec-WebSocket-Key:"), answer[29], text[256];
    if (!key) return 0;
    for (key += 20; *key == ' ';) key++;
    accept_key(key, answer);
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Accept: %s\r\n\r\n", answer);
    put(connection, (unsigned char *)text, size);
    connection->role = !strncmp((char *)head, "GET /pub", 8) ? PUBLISHER : !strncmp((char *)head, "GET /sub", 8) ? SUBSCRIBER : ECHO;
    if (connection->role == SUBSCRIBER) {
        connection->place = subscriber_count++;
        subscribers = realloc(subscribers, subscriber_count * sizeof *subscribers);
        subscribers[connection->place] = connection;
    }
    return end + 4 - head;
}

static void unmask(unsigned char *payload, size_t length, const unsigned char key[4]) {
    uint64_t word, mask;
    memcpy(&mask, key, 4), memcpy((char *)&mask + 4, key, 4);
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        memcpy(&word, payload + i, 8);
        word ^= mask;
        memcpy(payload + i, &word, 8);
    }
    for (; i < length; i++) payload[i] ^= key[i & 3];
}

/* Length of the frame at the front with its header, which is put into *header; SIZE_MAX if that is not whole yet. */
static size_t frame_length(const unsigned char *data, size_t length, size_t *header) {
    if (length < 2) return SIZE_MAX;
    size_t payload = data[1] & 127;
    *header = payload < 126 ? 6 : payload == 126 ? 8 : 14;
    if (length < *header) return SIZE_MAX;
    if (payload == 126) payload = data[2] << 8 | data[3];
    if (payload == 127) {
        payload = 0;
        for (int i = 2; i < 10; i++) payload = payload << 8 | data[i];
    }
    return *header + payload;
}

/* Turns all whole frames in place into what a server sends; they then stand next to each other. */
static size_t turn(unsigned char *data, size_t length, unsigned char **start, size_t *size, int *closes) {
    size_t used = 0, header, frame;
    *start = NULL, *size = 0;
    while ((frame = frame_length(data + used, length - used, &header)) <= length - used) {
        unsigned char *from = data + used, *payload = from + header, key[4];
        if ((from[0] & 15) == 8) *closes = 1;
        memcpy(key, payload - 4, 4);
        unmask(payload, frame - header, key);
        /* The server's header is as long as the client's without the key, and stands four bytes further on. */
        memmove(from + 4, from, header - 4);
        from[5] &= 127;
        if (!*start) *start = from + 4;
        else memmove(*start + *size, from + 4, frame - 4);
        *size += frame - 4;
        used += frame;
    }
    return used;
}

static int handle(struct connection *connection, unsigned char *data, size_t length, size_t *used) {
    unsigned char *start;
    size_t size;
    int closes = 0;
    *used = 0;
    if (connection->role == OPENING && !(*used = open_up(connection, data, length))) return 0;
    *used += turn(data + *used, length - *used, &start, &size, &closes);
    if (closes || connection->role == ECHO) {
        if (size) put(connection, start, size);
    } else if (size) {
        for (size_t i = 0; i < subscriber_count; i++) put(subscribers[i], start, size);
    }
    return closes;
}

/* Reads until the socket is empty, or to its end if that has come with the same event; non-zero when the connection is over. */
static int serve(struct connection *connection, int has_ended) {
    for (;;) {
        struct bytes *in = &connection->in;
        unsigned char *data = scratch;
        size_t room = sizeof scratch - 16, used, header;
        if (in->length) {
            size_t frame = connection->role == OPENING ? 16384 : frame_length(in->data, in->length, &header);
            size_t wanted = frame == SIZE_MAX || frame < 16384 ? 16384 : frame;
            if (in->capacity < wanted) {
                in->capacity = wanted;
                if (!(in->data = realloc(in->data, wanted))) abort();
            }
            data = in->data, room = in->capacity;
        }
        ssize_t count = read(connection->socket, data + in->length, room - in->length);
        if (count == 0 || (count < 0 && errno != EAGAIN)) return 1;
        if (count < 0) return 0;
        size_t total = in->length + count;
        int full = total == room;
        if (handle(connection, data, total, &used)) return 1;
        if (used == total) {
            in->length = 0; /* the memory is kept, as a server would not: this is the limit */
        } else if (in->length) {
            in->length = total - used;
            memmove(in->data, in->data + used, in->length);
        } else {
            append(in, scratch + used, total - used);
        }
        if (!full && !has_ended) return 0;
    }
}

int main(int count, char **arguments) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), queue = epoll_create1(0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(count > 1 ? atoi(arguments[1]) : 9000)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return perror("listening"), 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[1024];
    epoll_ctl(queue, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(queue, events, 1024, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection) {
                if (connection->out.length) put_rest(connection);
                int has_ended = events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
                if ((events[i].events & ~EPOLLOUT) && serve(connection, has_ended)) drop(connection);
                continue;
            }
            int socket;
            while ((socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                connection = calloc(1, sizeof *connection);
                connection->socket = socket;
                event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, event.data.ptr = connection;
                epoll_ctl(queue, EPOLL_CTL_ADD, socket, &event);
            }
        }
    }
}
