"""What WeCom's errcodes mean and what to do about them, for operators: Chinese first, then English.

Sources: path/90313 (global codes), path/90455 (how to trace them), the pages of the APIs in question.
Decide on the code, never on errmsg.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Explanation(NamedTuple):
    """What a code means and what to do."""

    zh: str
    en: str


_ACCESS: Mapping[int, tuple[str, str]] = {
    40001: (
        "Secret 不正确：在管理后台「应用管理」打开该应用，重新查看 Secret；每个应用的 Secret 各不相同",
        "wrong secret: copy it again from the application's page in the admin console; every application"
        " has its own",
    ),
    40013: (
        "企业 ID（CorpID）不正确：在管理后台「我的企业 - 企业信息」最下方查看，以 ww 开头",
        "wrong corp id: see My Enterprise in the admin console, it begins with ww",
    ),
    40014: (
        "access_token 不正确：程序会自动重新获取；反复出现时，核对企业 ID 与 Secret 是否属于同一企业",
        "invalid access_token: it is fetched again by itself; if this goes on, check that corp id and"
        " secret belong together",
    ),
    40056: (
        "AgentId 不正确：在管理后台「应用管理」该应用的页面查看 AgentId",
        "invalid agent id: see the application's page in the admin console",
    ),
    40091: (
        "Secret 不正确，可能是另一个企业的：核对企业 ID 与 Secret 是否属于同一企业",
        "wrong secret, perhaps another corp's: corp id and secret must belong together",
    ),
    41001: (
        "请求没有带 access_token：程序会自动重新获取；若前面有反向代理，检查它是否删掉了网址参数",
        "access_token missing: it is fetched again by itself; a proxy in between must keep the query",
    ),
    41002: ("没有填写企业 ID：补上 corp_id", "corp id missing: set corp_id"),
    41004: ("没有填写 Secret：补上 secret", "secret missing: set secret"),
    42001: (
        "access_token 已过期：程序会自动重新获取；反复出现时检查服务器时间",
        "access_token expired: it is fetched again by itself",
    ),
    48002: (
        "没有调用该接口的权限：在管理后台给应用开通；微信客服要在「微信客服 - API」中"
        "把该应用设为可调用接口的应用",
        "no permission for this API: grant it in the admin console; for customer service make the"
        " application one that may call its API",
    ),
    48004: (
        "授权无效或已取消：请企业管理员重新授权",
        "the authorisation is invalid or was withdrawn: have it granted again",
    ),
    50001: (
        "跳转网址的域名没有登记为可信域名：在应用的「网页授权及 JS-SDK」中登记",
        "the redirect's domain is not trusted: register it on the application's page",
    ),
    50002: (
        "成员不在应用的可见范围内：在应用页面扩大「可见范围」",
        "the member is outside the application's visible range: widen it in the admin console",
    ),
    50003: (
        "应用已停用：在管理后台「应用管理」启用该应用",
        "the application is disabled: enable it in the admin console",
    ),
    60011: (
        "应用对该成员、部门或标签没有权限：在应用页面扩大「可见范围」",
        "no right to this member, department or tag: widen the application's visible range",
    ),
    60020: (
        "本机的公网 IP 不在可信 IP 名单中：在应用页面「企业可信 IP」加入错误信息里 from ip 后面的地址"
        "（须先设置可信域名或接收消息服务器）",
        "this machine's public IP is not trusted: add the address after 'from ip' to the application's"
        " trusted IPs",
    ),
    93000: (
        "群机器人的 key 无效，机器人可能已被移除：在群里重新添加机器人，只填网址中 key= 后面的部分",
        "invalid robot key, the robot may have been removed: add it to the chat again and set the part"
        " after key= of its URL",
    ),
    301002: (
        "无权操作这个应用：AgentId 与 Secret 必须属于同一个应用",
        "not allowed for this application: agent id and secret must be of the same one",
    ),
    2000002: (
        "企业 ID 不存在：核对 corp_id",
        "no such corp: check corp_id",
    ),
}

_LIMITS: Mapping[int, tuple[str, str]] = {
    -1: ("企业微信系统繁忙：程序会稍后重试", "WeCom is busy: the call is repeated later"),
    45009: (
        "调用过于频繁，接口被暂时限制：程序会等待后重试；群机器人每分钟最多 20 条",
        "called too often, blocked for a while: the call is repeated later; a group robot may send"
        " 20 messages a minute",
    ),
    45033: (
        "同时调用过多：程序会稍后重试",
        "too many calls at once: the call is repeated shortly",
    ),
}

_RECIPIENTS: Mapping[int, tuple[str, str]] = {
    40003: (
        "成员账号（UserID）不存在：可能已离职或改名，核对通讯录中的「账号」",
        "invalid userid: the member may have left; compare with the contacts' account names",
    ),
    40031: (
        "成员账号列表中有不存在的账号：核对通讯录",
        "a userid of the list does not exist: compare with the contacts",
    ),
    40032: ("成员账号列表的长度不符合要求", "the list of userids has a length that is not allowed"),
    40050: ("群聊（chatid）不存在：先创建群聊", "no such chat: create it first"),
    40096: (
        "客户账号（external_userid）不正确：它必须来自同一企业的回调",
        "invalid external_userid: it must come from the same corp's callbacks",
    ),
    46004: ("成员不存在：核对通讯录", "no such member: compare with the contacts"),
    60111: ("成员账号（UserID）不存在：核对通讯录", "no such userid: compare with the contacts"),
    81013: (
        "收件的成员、部门和标签全部无效或无权限：核对账号，并检查应用的「可见范围」",
        "no recipient is valid and allowed: check the userids and the application's visible range",
    ),
    82001: (
        "指定的成员、部门和标签全部无效：核对账号和应用的「可见范围」",
        "all members, departments and tags are invalid: check the userids and the visible range",
    ),
    84061: (
        "该客户与成员不是外部联系人关系，可能已被删除",
        "the customer is not an external contact any more",
    ),
    86001: ("群聊（chatid）不合法", "invalid chatid"),
    86003: ("群聊（chatid）不存在，可能已解散", "no such chatid: the chat may have been dissolved"),
    86008: (
        "群聊不是这个应用创建的：应用只能向自己创建的群聊发消息",
        "the chat was made by another application: only its own can be written to",
    ),
}

_CONTENT: Mapping[int, tuple[str, str]] = {
    40004: ("媒体文件类型不符合要求", "this type of media file is not taken"),
    40005: ("上传的 type 参数不正确", "invalid type of upload"),
    40006: (
        "媒体文件大小不符合要求：须大于 5 个字节",
        "this size of file is not taken: it must have more than 5 bytes",
    ),
    40007: (
        "media_id 无效：临时素材 3 天后过期，且只在同一企业内有效",
        "invalid media_id: it lasts for 3 days, and within one corp",
    ),
    40008: ("消息类型（msgtype）不正确", "invalid msgtype"),
    40009: ("图片大小不符合要求：压缩后再发", "the image's size is not taken: send a smaller one"),
    40011: ("视频大小不符合要求：压缩后再发", "the video's size is not taken: send a smaller one"),
    40033: ("请求中有不允许的字符", "the request has characters that are not allowed"),
    40035: ("参数不正确", "invalid parameter"),
    40058: ("参数不正确：错误信息中写明了哪一个", "invalid parameter: the message tells which"),
    40063: ("参数为空", "a parameter is empty"),
    41005: ("上传的请求里没有文件", "the upload holds no file"),
    44001: ("上传的文件是空的", "the file is empty"),
    44004: ("消息内容为空", "the text is empty"),
    45001: (
        "文件过大：压缩或拆分后再发，或改发下载链接",
        "the file is too large: send a smaller one, or a link",
    ),
    45002: ("消息内容过长", "the message is too long"),
    45007: ("语音超过 60 秒", "the voice message is longer than 60 seconds"),
    45008: ("图文消息的文章超过 8 篇", "more than 8 articles"),
    47001: ("请求的数据格式不正确", "the request's format is wrong"),
    85002: ("消息中有不允许的词语", "the message has words that are not allowed"),
    301017: ("语音只支持 AMR 格式", "voice messages must be AMR"),
}

_CUSTOMER_SERVICE: Mapping[int, tuple[str, str]] = {
    95000: (
        "客服账号（open_kfid）不正确：核对 kf_id，以 wk 开头",
        "invalid open_kfid: check kf_id, it begins with wk",
    ),
    95001: (
        "该客户在 48 小时内的 5 条回复已用完：客户再发消息后才能继续",
        "the 5 messages to this customer are used up: the next one must come from them",
    ),
    95004: (
        "客服账号不存在，可能已被删除：核对 kf_id",
        "no such customer service account: check kf_id",
    ),
    95007: (
        "拉取消息用的 Token 无效：它只在 10 分钟内有效，下一次回调会带来新的",
        "invalid Token for reading messages: it lasts 10 minutes, the next callback brings one",
    ),
    95011: (
        "微信客服正由企业微信自身管理：在「微信客服 - API」中改为由 API 管理该账号",
        "customer service is used in WeCom itself: let the API manage the account",
    ),
    95012: (
        "企业微信没有启用微信客服：在管理后台启用",
        "customer service is not enabled in WeCom: enable it in the admin console",
    ),
    95013: (
        "会话已结束：客户再发消息后会开始新的会话",
        "the conversation has ended: the customer's next message begins another",
    ),
    95016: (
        "会话当前状态不允许这样转换：人工接待只能结束，已结束的会话不能再转；接待人员须在接待中",
        "the conversation cannot go from its state to this one",
    ),
    95017: (
        "没有开通微信客服的 API，或事件的 code 无效、已用过：在「微信客服 - API」中检查",
        "the API of customer service is not enabled, or the event's code is invalid or used up",
    ),
    95018: (
        "会话状态不允许机器人发消息：已转人工或已结束，或客户 48 小时没有来信。若每次都出现，"
        "在「微信客服」中把接待方式改为由 API 管理",
        "the conversation's state lets the bot send nothing: a human has it, it has ended, or 48 hours"
        " have passed; if it is always so, let the API manage the account",
    ),
}

EXPLANATIONS: Mapping[int, Explanation] = {
    code: Explanation(zh, en)
    for group in (_ACCESS, _LIMITS, _RECIPIENTS, _CONTENT, _CUSTOMER_SERVICE)
    for code, (zh, en) in group.items()
}

# The same message will never go through: its recipient, its content or its conversation is at fault.
# Not in here: limits (they pass), a 95007 (the next callback brings a token), and everything that an
# operator can mend while the message waits: secret, corp, agent, robot key, trusted IPs, visible range,
# permissions. Nor 95017, which means either. An open_kfid is in here, although it is configured: the
# message answers a customer of that account, so it has been deleted since. 81013 names the visible
# range too, but whoever is answered has written to the application and was within it.
PERMANENT: frozenset[int] = (
    frozenset(_RECIPIENTS) | frozenset(_CONTENT) | {95000, 95001, 95004, 95013, 95016, 95018}
)


def explain(code: int | None) -> Explanation | None:
    """What an errcode means, in Chinese and English; None if it is not known here."""
    return EXPLANATIONS.get(code) if code is not None else None
