"""What the objects of providers' SDKs say about a call: its tokens, its model and who ran it.

Objects are recognised by their structure, so that no SDK is imported, and plain dictionaries of the same shape, as
`model_dump()` makes them, are read alike. Each module knows the objects of one family of APIs.
"""

from usage_worker.responses.reading import TOKEN_FIELDS
from usage_worker.responses.tally import Tally, fields_of

__all__ = ["TOKEN_FIELDS", "Tally", "fields_of"]
