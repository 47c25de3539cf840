"""Labels videos over HTTP. Needs the extra `serve`: `pip install 'vov3d[serve]'`.

`app.py` answers requests, `service.py` runs them; `_uploads.py` and `_fetching.py` bring videos in, `_decoding.py` has
them decoded by processes of their own, `_batching.py` runs the network, and `server.py` listens and stops.
"""
