-- POST the events of a file: wrk -s post.lua URL -- FILE KEY
function init(args)
    local file = assert(io.open(args[1], "rb"))
    wrk.method = "POST"
    wrk.body = file:read("*a")
    wrk.headers["Content-Type"] = "application/json"
    wrk.headers["Authorization"] = "Bearer " .. args[2]
    file:close()
end

function done(summary, latency)
    local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
    io.stderr:write(string.format("%d %d %d %d %d\n", summary.requests, summary.duration, failed,
                                  latency:percentile(50), latency:percentile(99)))
end
