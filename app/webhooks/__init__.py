"""Telling somebody that an explanation has ended, by Standard Webhooks.

The queue notes in the script that closes a job that news of it are due (`camserve/broker`). Any
front end claims them (`dispatcher.py`), makes the event from the job (`events.py`), signs and posts
it (`sending.py`), and notes how it went; `schedule.py` says when it is tried again.
"""
