// No answer is lost. gradio (6.31) closes the stream of answers whenever none is due; on a busy machine its browser side may read
// the end of a stream after it has asked for something new, and then opens no other. Here it reads one stream that does not end,
// and there is a connection to the server whenever an answer is due.
(() => {
  const STREAM = /\/queue\/data\?/, ASKED = /\/queue\/join(\?|$)/, HEAD = 200, AGAIN = 200;
  const send = window.fetch.bind(window);
  const due = new Set(), early = new Set(); // events whose answers are to come, and those answered before their names were known
  let connect = () => {};

  // Whether gradio is to read a message.
  function passes(text) {
    const head = text.slice(0, HEAD), kind = head.match(/"msg": ?"(\w+)"/)?.[1], event = head.match(/"event_id": ?"(\w+)"/)?.[1];
    if (kind === "process_completed" && event && !due.delete(event)) early.add(event);
    if (kind === "unexpected_error" && !event) due.clear(); // of all: the server has forgotten them
    return kind !== "close_stream";
  }

  async function carry(answer, sink) {
    if (!answer.ok) throw answer;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(), encoder = new TextEncoder();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      const messages = (rest + value).split("\n\n");
      rest = messages.pop();
      for (const message of messages.filter(passes)) sink.enqueue(encoder.encode(`${message}\n\n`));
    }
  }

  function stream(request) {
    let going = false;
    const body = new ReadableStream({ start: (sink) => {
      connect = async () => {
        if (going) return;
        going = true;
        try {
          for (;;) {
            await carry(await send(request.clone()), sink);
            if (!due.size) break;
            await new Promise((resolve) => setTimeout(resolve, AGAIN));
          }
          going = false;
        } catch (error) {
          due.clear();
          sink.error(error);
        }
      };
    } });
    connect();
    return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }

  window.fetch = async (...given) => {
    const url = String(given[0]?.url ?? given[0]);
    if (STREAM.test(url)) return stream(new Request(...given));
    const answer = await send(...given);
    if (ASKED.test(url) && answer.ok) {
      const { event_id: event } = await answer.clone().json();
      if (!early.delete(event)) due.add(event);
      connect();
    }
    return answer;
  };
})();
