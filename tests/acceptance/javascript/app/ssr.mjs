// A page that is rendered on a server: nothing is asked for, and nothing is connected.
import { createElement } from 'react';
import { renderToString } from 'react-dom/server';
import { useBotChat } from 'rowcast/react';

const never = () => {
  throw new Error('this is for the browser');
};

function Chat() {
  const { state, messages, wake } = useBotChat({ botId: 'b', getToken: never, history: never });
  return createElement('p', null, `${state}, ${messages.length}, ${typeof wake}`);
}

console.log(renderToString(createElement(Chat)));
