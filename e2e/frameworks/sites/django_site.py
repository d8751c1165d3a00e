"""A Django site whose sessions and cached pages are in the cache, by Django's own backend. In: PORT, the cache's. Out: the site's port on
standard output."""

import os
import socketserver
import sys
import wsgiref.simple_server

import django
from django.conf import settings
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.cache import cache_page

settings.configure(
    ALLOWED_HOSTS=["*"],
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{os.environ['PORT']}/3",
            "KEY_PREFIX": "django",
        }
    },
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a test",
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)
computed = 0


def login(request):
    # As at a real login: a new key for the session, so that one that was planted is worth nothing.
    request.session.cycle_key()
    request.session["user"] = request.GET["user"]
    request.session["visits"] = 0
    if "seconds" in request.GET:
        request.session.set_expiry(int(request.GET["seconds"]))
    return JsonResponse({})


def visit(request):
    if "user" not in request.session:
        return JsonResponse({"user": None})
    request.session["visits"] += 1
    return JsonResponse({"user": request.session["user"], "visits": request.session["visits"]})


def logout(request):
    request.session.flush()
    return JsonResponse({})


@cache_page(60)
def page(request):
    global computed
    computed += 1
    return JsonResponse({"by": os.getpid(), "computed": computed})


def once(request, name):
    """Who comes first does the work."""
    return JsonResponse({"first": cache.add(f"once:{name}", os.getpid(), timeout=60)})


def count(request, name):
    cache.add(f"count:{name}", 0, timeout=60)
    return JsonResponse({"count": cache.incr(f"count:{name}")})


urlpatterns = [
    path("login", login),
    path("visit", visit),
    path("logout", logout),
    path("page", page),
    path("once/<name>", once),
    path("count/<name>", count),
]


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


if __name__ == "__main__":
    django.setup()
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, get_wsgi_application(), Server, Quiet)
    print(server.server_port, flush=True)
    sys.exit(server.serve_forever())
