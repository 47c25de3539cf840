"""Labels videos over HTTP, and shows models on a web page.

The service needs the extra `serve`: `app.py` answers requests, `service.py` runs them; `_uploads.py` and `_fetching.py`
bring videos in, `_decoding.py` has them decoded by processes of their own, `_batching.py` runs the network, and
`server.py` listens and stops. The page needs the extra `demo`: `page.py` shows it, `_labelling.py` labels.
"""
