/* uWebSockets, with the bounds of its own echo example, but without compression (no other peer compresses here).
 *
 *   uwebsockets PORT      /echo: every message comes back; /pub: what is said there is published to all on /sub
 */
#include "App.h"

struct Nothing {};

static uWS::App::WebSocketBehavior<Nothing> quiet() {
    uWS::App::WebSocketBehavior<Nothing> behavior;
    behavior.compression = uWS::DISABLED;
    behavior.maxPayloadLength = 100 * 1024 * 1024;
    /* The default, 64 KiB, would drop messages: it has to deliver them all, like the others. */
    behavior.maxBackpressure = 100 * 1024 * 1024;
    return behavior;
}

int main(int, char **arguments) {
    uWS::App app;
    auto echo = quiet(), subscriber = quiet(), publisher = quiet();
    echo.message = [](auto *socket, std::string_view message, uWS::OpCode opcode) { socket->send(message, opcode); };
    subscriber.open = [](auto *socket) { socket->subscribe("load"); };
    publisher.message = [&app](auto *, std::string_view message, uWS::OpCode opcode) { app.publish("load", message, opcode); };
    app.ws<Nothing>("/echo", std::move(echo))
        .ws<Nothing>("/sub", std::move(subscriber))
        .ws<Nothing>("/pub", std::move(publisher))
        .listen("127.0.0.1", atoi(arguments[1]), [](auto *listening) { if (!listening) exit(1); })
        .run();
}
