"""What each problem means and what to do about it, for people."""

from __future__ import annotations

from camserve.errors import ErrorCode

__all__ = ["ADVICE", "TITLE"]

TITLE: dict[ErrorCode, str] = {
    ErrorCode.API_KEY_MISSING: "An API key is needed",
    ErrorCode.API_KEY_UNKNOWN: "The API key is not known",
    ErrorCode.SIGNATURE_INVALID: "The link is not signed for this",
    ErrorCode.SCOPE_MISSING: "The API key may not do this",
    ErrorCode.MALFORMED_REQUEST: "The body cannot be parsed",
    ErrorCode.EMPTY_BODY: "The body is empty",
    ErrorCode.REQUEST_TIMEOUT: "The request did not come to its end",
    ErrorCode.INVALID_REQUEST: "The request has no meaning",
    ErrorCode.INVALID_INPUT: "The model cannot take this input",
    ErrorCode.CLASS_INDEX_OUT_OF_RANGE: "The class index is out of range",
    ErrorCode.UNKNOWN_LABEL: "The model has no such class label",
    ErrorCode.INVALID_EXPRESSION: "The expression has no meaning",
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: "The content type is not one that camserve reads",
    ErrorCode.UNREADABLE_IMAGE: "Not a picture that camserve reads",
    ErrorCode.CORRUPT_IMAGE: "The picture is truncated or damaged",
    ErrorCode.TOO_LARGE: "Larger than the service accepts",
    ErrorCode.TOO_LARGE_FOR_DEVICE: "Larger than the device has memory for",
    ErrorCode.OVER_BUDGET: "More computation than a request is granted",
    ErrorCode.URL_NOT_ALLOWED: "A URL that camserve is not to call",
    ErrorCode.URL_UNREACHABLE: "Nothing could be fetched from the URL",
    ErrorCode.NOT_ACCEPTABLE: "The answer cannot be given in that form",
    ErrorCode.IDEMPOTENCY_CONFLICT: "The idempotency key belongs to another request",
    ErrorCode.NOT_READY: "The explanation has no result",
    ErrorCode.CANCELED: "The explanation was canceled",
    ErrorCode.NOT_FOUND: "Nothing is at this address",
    ErrorCode.METHOD_NOT_ALLOWED: "This address does not know that method",
    ErrorCode.MODEL_NOT_FOUND: "There is no such model",
    ErrorCode.EXPLANATION_NOT_FOUND: "There is no such explanation",
    ErrorCode.LAYER_NOT_FOUND: "The model has no such layer",
    ErrorCode.INVALID_CARD: "The model's card is wrong",
    ErrorCode.UNSUPPORTED_MODEL: "The model's file is of a kind that camserve does not load",
    ErrorCode.MODEL_UNAVAILABLE: "The model cannot be loaded",
    ErrorCode.MODEL_LOADING: "The model is being loaded",
    ErrorCode.MODEL_QUARANTINED: "Loading the model crashes the worker",
    ErrorCode.MODEL_CHANGED: "The model changed while the request waited",
    ErrorCode.NOT_EXPLAINABLE: "There is no Grad-CAM for these layers",
    ErrorCode.SHAPE_MISMATCH: "The shapes do not fit together",
    ErrorCode.RATE_LIMITED: "Too many calls in a short time",
    ErrorCode.TOO_MANY_CONNECTIONS: "Too many connections are open",
    ErrorCode.SHUTTING_DOWN: "This front end is being stopped",
    ErrorCode.QUEUE_FULL: "Too many jobs are waiting",
    ErrorCode.QUEUE_UNAVAILABLE: "The queue cannot be reached",
    ErrorCode.NO_WORKER: "No worker serves the model",
    ErrorCode.DEADLINE_EXCEEDED: "The deadline passed",
    ErrorCode.WAIT_EXCEEDED: "The result did not come while the server waited",
    ErrorCode.DEAD_LETTERED: "The explanation was given up",
    ErrorCode.DEAD_LETTER_NOT_FOUND: "There is no such dead letter",
    ErrorCode.NOT_REPLAYABLE: "The dead letter cannot be replayed any more",
    ErrorCode.INTERNAL: "Something broke inside camserve",
}

ADVICE: dict[ErrorCode, str] = {
    ErrorCode.API_KEY_MISSING: (
        "This service serves those who have a key. Send it as a header, Authorization: Bearer KEY "
        "or X-API-Key: KEY; the operator makes one with `camserve keys add NAME`."
    ),
    ErrorCode.API_KEY_UNKNOWN: (
        "What was sent is no key of this service, or was one until it was removed. A key begins "
        "with camserve_ and is sent whole, once, without quotes."
    ),
    ErrorCode.SIGNATURE_INVALID: (
        "The links of an explanation to its maps and overlays carry a signature, and open without "
        "a key just these. Take `href` whole; further options go behind it with an &. It ends with "
        "the explanation: then send the request again."
    ),
    ErrorCode.SCOPE_MISSING: (
        "The key is known, but what it may do does not include this. `scope` says what is needed; "
        "the operator makes keys with it."
    ),
    ErrorCode.MALFORMED_REQUEST: (
        "The bytes do not parse as what the content type says: JSON that is cut off or misspelt "
        "(`line` and `column` say where), or a form without its boundary. Send it again whole; "
        "with curl, let -F or -d write the content type."
    ),
    ErrorCode.EMPTY_BODY: (
        "Nothing came, or an empty file. With curl, a file needs an @ before its path: -F "
        "input=@cat.jpg or --data-binary @cat.jpg."
    ),
    ErrorCode.REQUEST_TIMEOUT: (
        "The head of the request took longer than `limit` seconds, or its body stood still for so "
        "long. A slow upload that goes on is never cut off. The operator sets the limit: "
        "CAMSERVE_STALL_S."
    ),
    ErrorCode.INVALID_REQUEST: (
        "The request can be read, but a field is unknown, missing, twice there or out of its "
        "range. `field` names the first, `errors` all of them. /docs lists every field."
    ),
    ErrorCode.INVALID_INPUT: (
        "The picture or tensor is sound, but not what this model takes: another shape, NaN, or "
        "no numbers at all. `expected` says the shape; GET /v1/models/{model} says all of the "
        "input."
    ),
    ErrorCode.CLASS_INDEX_OUT_OF_RANGE: (
        "Class indices count from 0, so that a model of 1000 classes has 0 to 999 (MATLAB "
        "counts from 1: subtract one). `minimum` and `maximum` say the range."
    ),
    ErrorCode.UNKNOWN_LABEL: (
        "Labels are spelt as in the model's card; case does not matter. `near` lists what was "
        "probably meant. A model without labels takes a class_index."
    ),
    ErrorCode.INVALID_EXPRESSION: (
        "The expression cannot be read, or is no finite number for this model's output. `column` "
        "(from 1) says which character is at fault, `detail` what to write instead, `near` the "
        "function that was probably meant. docs/expressions.md describes the language."
    ),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (
        "Send application/json, multipart/form-data, or a raw file with its own type, such as "
        "image/jpeg. curl's --data-binary needs -H 'Content-Type: image/jpeg' beside it."
    ),
    ErrorCode.UNREADABLE_IMAGE: (
        "The first bytes are of no format that camserve reads, whatever the name of the file "
        "says. `formats` lists those it reads; convert the picture, or send a .npy tensor."
    ),
    ErrorCode.CORRUPT_IMAGE: (
        "It begins like a picture and cannot be decoded to its end, mostly because the upload "
        "or the file was cut off. Open it with a viewer, and send the whole file. A JPEG in more "
        "scans or segments than encoders write is refused, too: save it anew."
    ),
    ErrorCode.TOO_LARGE: (
        "More bytes, pixels, inputs, targets or output than the service accepts. `limit` says "
        "how much it does; send a smaller picture or ask for a smaller size. Numbers in JSON have "
        "a smaller limit than .npy. The operator sets the limits: see docs/settings.md."
    ),
    ErrorCode.TOO_LARGE_FOR_DEVICE: (
        "Computed all by itself, this input still needs more memory than the worker's device has: "
        "other inputs are not harmed, and the same request will hardly fit later. `detail` says "
        "what costs less: a smaller input where the model takes any size, another method, fewer "
        "targets, half precision. `shape` is the input's, `device` where it was tried; `execution` "
        "may name a larger one."
    ),
    ErrorCode.OVER_BUDGET: (
        "scorecam, ablationcam and evaluate cost many forward passes, and there is a limit for one "
        "request (CAMSERVE_MAX_FORWARD_PASSES, and CAMSERVE_JOB_TIME_LIMIT_S for the time). Send "
        "fewer inputs at once, name a layer with fewer channels, give method_options.channels, or "
        "ask for fewer steps."
    ),
    ErrorCode.URL_NOT_ALLOWED: (
        "camserve calls only the hosts that its operator names (CAMSERVE_FETCH_HOSTS for inputs, "
        "CAMSERVE_WEBHOOK_HOSTS for webhooks), and only at public addresses, or those of networks "
        "on that list. `rule` says what the URL breaks: `off` (no host is named), `host`, "
        "`scheme`, `port`, or `address` (it is not public); redirects keep to the same rules. An "
        "input can be sent itself: that needs no list. docs/urls.md has all of it."
    ),
    ErrorCode.URL_UNREACHABLE: (
        "The host may be called, but what is at the URL did not come. `reason` says why: `name` "
        "(it has no address), `refused`, `tls` (no trusted certificate), `timeout`, `broken`, "
        "`redirects` (more than three, or to no URL), `status` (`answered` says which), `encoded` "
        "(compressed though it was asked not to be), or `too_large` (`limit` says for what)."
    ),
    ErrorCode.NOT_ACCEPTABLE: (
        "`possible` lists the forms of this answer: name one in Accept, or as ?as=."
    ),
    ErrorCode.IDEMPOTENCY_CONFLICT: (
        "An idempotency key stands for one request for as long as its explanation is kept. Use "
        "a fresh key for a request that differs."
    ),
    ErrorCode.NOT_READY: (
        "There is no map yet. Ask for the explanation itself (its `state` says how far it is), "
        "and for the map once it has succeeded."
    ),
    ErrorCode.CANCELED: "Somebody sent DELETE before it was done. Send the request again.",
    ErrorCode.NOT_FOUND: (
        "There is no such address. /docs lists all of them; `near` those that look alike."
    ),
    ErrorCode.METHOD_NOT_ALLOWED: (
        "The address exists, with other methods: the header Allow says which."
    ),
    ErrorCode.MODEL_NOT_FOUND: (
        "`near` lists what was probably meant, `models` what there is; GET /v1/models lists all "
        "that the workers serve. A folder that is added to the repository is noticed within "
        "seconds."
    ),
    ErrorCode.EXPLANATION_NOT_FOUND: (
        "Ids are as POST /v1/explanations gave them, and explanations are kept for "
        "CAMSERVE_JOB_TTL_S. Send the request again."
    ),
    ErrorCode.LAYER_NOT_FOUND: (
        "`candidates` lists layers that can be explained, best first. GET /v1/models/{model} "
        "lists all modules, with shapes and reasons."
    ),
    ErrorCode.INVALID_CARD: (
        "The model's card.toml, or what it names, is wrong, and `detail` says where. Mend the "
        "folder, which is noticed within seconds; docs/models.md describes every field."
    ),
    ErrorCode.UNSUPPORTED_MODEL: (
        "camserve loads torch.export programs, models of transformers and allowed factories. "
        "TorchScript and pickles are refused: write the model again with torch.export.save."
    ),
    ErrorCode.MODEL_UNAVAILABLE: (
        "The model is known, but its files or its weights cannot be had now: mostly, the hub is "
        "out of reach. `detail` says the way out. It is tried again after `retry_after_s`."
    ),
    ErrorCode.MODEL_LOADING: (
        "The first request for a model loads it, which may fetch weights, and files that are just "
        "being replaced are loaded when they are whole. Send the request again after "
        "`retry_after_s`."
    ),
    ErrorCode.MODEL_QUARANTINED: (
        "The worker process crashed, or hung beyond CAMSERVE_LOAD_TIME_LIMIT_S, while it loaded "
        "this `version` of the model, so it is not loaded again; `reason` says what was seen. "
        "Mend the model's folder, which is noticed within seconds, or have the operator try it "
        "once more with POST /v1/models/{model}/load."
    ),
    ErrorCode.MODEL_CHANGED: (
        "The request was checked and its inputs were prepared for a version of the model that is "
        "not served any more, and the one that is, `version`, has another input, other classes or "
        "other layers. A result could mean something else than what was asked for. Send the "
        "request again: it is checked against the new version."
    ),
    ErrorCode.NOT_EXPLAINABLE: (
        "Grad-CAM needs a layer with space or time that the score depends on. `candidates` "
        "lists such layers; leave feature_layer out to have one chosen."
    ),
    ErrorCode.SHAPE_MISMATCH: (
        "Tensors that belong together have different shapes. If you sent none, the model's file "
        "is at fault: tell its operator."
    ),
    ErrorCode.RATE_LIMITED: (
        "Each API key has so many calls a minute that make work (`limit`); reading results costs "
        "none. Send the request again after `retry_after_s`; the header RateLimit of every such "
        "answer says how many are left. Several inputs and targets in one request are one call."
    ),
    ErrorCode.TOO_MANY_CONNECTIONS: (
        "An API process serves so many connections at once (CAMSERVE_MAX_CONNECTIONS). Keep fewer "
        "open, and use each for one request after the other; the operator may add processes."
    ),
    ErrorCode.SHUTTING_DOWN: (
        "The process that took the request is stopped, and what it asks for cannot be handed to "
        "another one. Send it again after `retry_after_s`: the next front end answers. Where "
        "there is an `explanation`, it goes on and can be fetched there."
    ),
    ErrorCode.QUEUE_FULL: (
        "More explanations of this `priority` wait for this model than the service allows. In "
        "about `retry_after_s` those that go before yours are done: send the request again then. "
        "The operator can add workers, or set CAMSERVE_QUEUE_DEPTH and CAMSERVE_BULK_QUEUE_DEPTH."
    ),
    ErrorCode.QUEUE_UNAVAILABLE: (
        "The front end cannot reach Redis. Nothing that was accepted is lost; send the request "
        "again after `retry_after_s`."
    ),
    ErrorCode.NO_WORKER: (
        "The front end runs, but no worker that has this model is alive. Start one with `python "
        "-m workers`, or wait if it is starting."
    ),
    ErrorCode.DEADLINE_EXCEEDED: (
        "The explanation was not made in time and will not be made any more. Give a longer "
        "deadline_ms, or send it when fewer are waiting."
    ),
    ErrorCode.WAIT_EXCEEDED: (
        "The protocols of other model servers know no 202: a call waits for its result, at most "
        "CAMSERVE_SYNC_WAIT_S. The work goes on, and the message says where its result will be. "
        "What takes long goes to POST /v1/explanations with Prefer: respond-async."
    ),
    ErrorCode.DEAD_LETTERED: (
        "Every worker that began it died before it ended, so it was given up. The input or the "
        "model crashes the process: the worker's log says how. The operator finds it, and what "
        "it was asked, among GET /v1/dead-letters."
    ),
    ErrorCode.DEAD_LETTER_NOT_FOUND: (
        "The id of a dead letter is that of the explanation that was given up. GET "
        "/v1/dead-letters lists them; they are kept for CAMSERVE_DEAD_LETTER_TTL_S, at most "
        "CAMSERVE_DEAD_LETTERS of a model, and until they are purged."
    ),
    ErrorCode.NOT_REPLAYABLE: (
        "What an explanation was given is kept for CAMSERVE_JOB_TTL_S after it was given up, which "
        "`replayable_until` of its dead letter says. Send the request again."
    ),
    ErrorCode.INTERNAL: (
        "A fault of camserve or of the model, not of the request. `error_id` finds the "
        "traceback in the log."
    ),
}
