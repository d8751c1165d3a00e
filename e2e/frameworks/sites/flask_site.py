"""A Flask site whose sessions Flask-Session keeps in the cache. In: PORT, the cache's. Out: the site's port on standard output."""

import datetime
import logging
import os

import flask
import flask_session
import redis
import werkzeug.serving

site = flask.Flask(__name__)
site.config.update(
    SESSION_TYPE="redis",
    SESSION_REDIS=redis.Redis(port=int(os.environ["PORT"]), db=4),
    PERMANENT_SESSION_LIFETIME=datetime.timedelta(seconds=int(os.environ.get("SESSION_S", "3600"))),
)
flask_session.Session(site)


@site.get("/login")
def login():
    site.session_interface.regenerate(flask.session)
    flask.session.update(user=flask.request.args["user"], visits=0)
    return {}


@site.get("/visit")
def visit():
    if "user" not in flask.session:
        return {"user": None}
    flask.session["visits"] += 1
    return {"user": flask.session["user"], "visits": flask.session["visits"]}


@site.get("/logout")
def logout():
    flask.session.clear()
    return {}


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = werkzeug.serving.make_server("127.0.0.1", 0, site, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()
